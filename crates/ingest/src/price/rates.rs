//! The catalogue's answers as rates.

use std::time::{Duration, UNIX_EPOCH};

use genai_prices::{Calculator, ErrorKind, PriceCalculation, PriceRequest, Usage, UsageKey};

use super::catalogue::Catalogue;
use super::provider::{Candidate, candidates};
use super::{Call, Cost};

/// The catalogue's prices change on days and at times of day that are multiples of this. Should one not be, that is
/// noticed, because both ends of a slot are probed; only a price that came and went within one slot would not be.
const SLOT_NS: u64 = 15 * 60 * 1_000_000_000;

/// Upper ends of the ranges of prompt lengths that are probed apart, in tokens: the lengths at which some model changes
/// its rates. Should another length be one, that is noticed, because both ends and the middle of a range are probed.
const BANDS: [i64; 12] =
    [32_000, 100_000, 128_000, 199_999, 200_000, 256_000, 272_000, 512_000, 524_288, 1_000_000, 1_048_576, 4_194_304];

/// What rates depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question<'a> {
    pub(super) model: &'a str,
    pub(super) provider: Option<&'a str>,
    pub(super) service_tier: Option<&'a str>,
    /// The quarter of an hour, counted from 1970.
    pub(super) slot: u32,
    /// The index into [`BANDS`], or their number for longer prompts.
    pub(super) band: u8,
}

impl<'a> Question<'a> {
    pub(super) fn of(call: &Call<'a>, input_tokens: i64) -> Self {
        Self {
            model: call.model,
            provider: call.provider,
            service_tier: call.service_tier,
            slot: (call.time_unix_nano / SLOT_NS) as u32,
            band: BANDS.partition_point(|&end| end < input_tokens) as u8,
        }
    }

    pub(super) fn names_bytes(&self) -> usize {
        self.model.len() + self.provider.map_or(0, str::len) + self.service_tier.map_or(0, str::len)
    }

    /// The first and the last nanosecond of the slot.
    fn times_unix_nano(&self) -> [u64; 2] {
        let start = u64::from(self.slot) * SLOT_NS;
        [start, start.saturating_add(SLOT_NS - 1)]
    }
}

/// The usage of a call, free of contradictions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens {
    pub(super) input: i64,
    cache_read: i64,
    cache_write: i64,
    output: i64,
    /// The part of the output that was thinking.
    reasoning: i64,
}

impl Tokens {
    /// None where the call tells no input or contradicts itself. Output that it does not tell is zero here.
    pub(super) fn of(call: &Call<'_>) -> Option<Self> {
        let tokens = Self {
            input: call.input_tokens?,
            cache_read: call.cache_read_tokens.unwrap_or(0),
            cache_write: call.cache_write_tokens.unwrap_or(0),
            output: call.output_tokens.unwrap_or(0),
            // More thinking than output is a contradiction of the producer's that does not change the price.
            reasoning: call.reasoning_tokens.unwrap_or(0).clamp(0, call.output_tokens.unwrap_or(0).max(0)),
        };
        let cached = tokens.cache_read.checked_add(tokens.cache_write)?;
        let is_negative = tokens.cache_read < 0 || tokens.cache_write < 0 || tokens.output < 0;
        (!is_negative && cached <= tokens.input).then_some(tokens)
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage::new();
        usage.insert(UsageKey::INPUT_TOKENS, self.input as f64);
        usage.insert(UsageKey::OUTPUT_TOKENS, self.output as f64);
        // Zeros are left out, because not every model has a rate for them.
        if self.cache_read > 0 {
            usage.insert(UsageKey::CACHE_READ_TOKENS, self.cache_read as f64);
        }
        if self.cache_write > 0 {
            usage.insert(UsageKey::CACHE_WRITE_TOKENS, self.cache_write as f64);
        }
        if self.reasoning > 0 {
            usage.insert(UsageKey::OUTPUT_REASONING_TOKENS, self.reasoning as f64);
        }
        usage
    }
}

/// What the catalogue says to a question.
#[derive(Clone, Copy, Debug)]
pub(super) enum Resolved {
    /// It has no price by tokens.
    Unpriced,
    /// Every token costs the same.
    Linear(Rates),
    /// The user's own catalogue has it.
    Own(Rates),
    /// It has a price that depends on more than the question tells: it has to be asked for each call.
    Other { output_is_free: bool },
}

/// Prices in units of 1e-18 US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) request: u64,
    pub(super) input: u64,
    pub(super) cache_read: u64,
    pub(super) cache_write: u64,
    pub(super) output: u64,
    pub(super) reasoning: u64,
}

/// Units of [`Rates`] in one of [`Cost::Usd`].
pub(super) const RATE_UNITS_PER_COST_UNIT: u64 = 1_000_000;

/// The first cost that `DECIMAL(18, 12)` cannot hold.
const COST_UNITS_END: i128 = 1_000_000_000_000_000_000;

impl Rates {
    pub(super) fn output_is_free(&self) -> bool {
        self.output == 0 && self.reasoning == 0
    }

    pub(super) fn cost(&self, tokens: &Tokens) -> Cost {
        match self.small_sum(tokens) {
            Some(sum) => {
                let (units, rest) = (sum / RATE_UNITS_PER_COST_UNIT, sum % RATE_UNITS_PER_COST_UNIT);
                let rounds_up = (rest * 2).cmp(&RATE_UNITS_PER_COST_UNIT).then((units % 2).cmp(&0)).is_gt();
                in_range(i128::from(units) + i128::from(rounds_up))
            }
            None => self.large_sum(tokens).map_or(Cost::OutOfRange, |sum| {
                let per_unit = u128::from(RATE_UNITS_PER_COST_UNIT);
                let (units, rest) = (sum / per_unit, sum % per_unit);
                let rounds_up = (rest * 2).cmp(&per_unit).then((units % 2).cmp(&0)).is_gt();
                i128::try_from(units).map_or(Cost::OutOfRange, |units| in_range(units + i128::from(rounds_up)))
            }),
        }
    }

    fn parts(&self, tokens: &Tokens) -> [(u64, u64); 5] {
        let uncached = tokens.input - tokens.cache_read - tokens.cache_write;
        [
            (self.input, uncached as u64),
            (self.cache_read, tokens.cache_read as u64),
            (self.cache_write, tokens.cache_write as u64),
            (self.output, (tokens.output - tokens.reasoning) as u64),
            (self.reasoning, tokens.reasoning as u64),
        ]
    }

    /// The sum of a call below 18 dollars: nearly every one, and without slow wide divisions.
    fn small_sum(&self, tokens: &Tokens) -> Option<u64> {
        let add = |sum: u64, (rate, count): (u64, u64)| sum.checked_add(rate.checked_mul(count)?);
        self.parts(tokens).into_iter().try_fold(self.request, add)
    }

    fn large_sum(&self, tokens: &Tokens) -> Option<u128> {
        let add = |sum: u128, (rate, count)| sum.checked_add(u128::from(rate) * u128::from(count));
        self.parts(tokens).into_iter().try_fold(u128::from(self.request), add)
    }
}

fn in_range(units: i128) -> Cost {
    if units < COST_UNITS_END { Cost::Usd(units) } else { Cost::OutOfRange }
}

/// Asks the catalogue for the price of one call.
pub(super) fn cost_by_catalogue(
    catalogue: &Calculator,
    question: &Question<'_>,
    tokens: &Tokens,
    time_unix_nano: u64,
) -> Cost {
    let usage = tokens.usage();
    let probe = |candidate: &Candidate<'_>| price(catalogue, candidate, question, &usage, time_unix_nano).ok();
    match candidates(question.provider, question.model).iter().find_map(probe) {
        Some(price) => decimal_cost(price.total_price),
        None => Cost::Unknown,
    }
}

/// Rounds a cost in dollars, half to even, by its exact binary value.
fn decimal_cost(usd: f64) -> Cost {
    if usd >= 1e6 {
        return Cost::OutOfRange;
    }
    if usd.is_nan() || usd < 0.0 {
        return Cost::Unknown;
    }
    let bits = usd.to_bits();
    let exponent = (bits >> 52) as i32;
    let fraction = bits & ((1 << 52) - 1);
    let mantissa = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    // The value is mantissa * 2^-shift. It is below 2^20, so the shift is at least 32; where it is so large that
    // nothing is left, all shifts give the same.
    let shift = (1075 - exponent.max(1)).min(120);
    let scaled = u128::from(mantissa) * 1_000_000_000_000;
    let (units, rest, half) = (scaled >> shift, scaled & ((1 << shift) - 1), 1_u128 << (shift - 1));
    let rounds_up = rest > half || (rest == half && units % 2 == 1);
    i128::try_from(units).map_or(Cost::OutOfRange, |units| in_range(units + i128::from(rounds_up)))
}

fn price(
    catalogue: &Calculator,
    candidate: &Candidate<'_>,
    question: &Question<'_>,
    usage: &Usage,
    time_unix_nano: u64,
) -> genai_prices::Result<PriceCalculation> {
    let (provider, model) = candidate;
    let mut request = PriceRequest::new(model, usage)
        .with_provider_id(provider)
        .with_timestamp(UNIX_EPOCH + Duration::from_nanos(time_unix_nano));
    match question.service_tier {
        // A way of submitting rather than a tier to the catalogue, but some providers report it as one.
        Some("batch") => request = request.with_price_context("processing", "batch"),
        Some(tier) => request = request.with_price_context("service_tier", tier),
        None => {}
    }
    catalogue.calculate(&request)
}

/// Asks the catalogues for the rates, the user's own one first.
pub(super) fn resolve(catalogue: &Calculator, own: Option<&Catalogue>, question: &Question<'_>) -> Resolved {
    let [start, _] = question.times_unix_nano();
    if let Some(rates) = own.and_then(|own| own.rates(question.provider, question.model, start)) {
        return Resolved::Own(rates);
    }
    let none = Usage::new();
    let is_known = |candidate: &Candidate<'_>| match price(catalogue, candidate, question, &none, start) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::ProviderNotFound | ErrorKind::ModelNotFound),
    };
    let Some(candidate) = candidates(question.provider, question.model).into_iter().find(is_known) else {
        return Resolved::Unpriced;
    };
    let prober = Prober { catalogue, question, candidate: &candidate };
    let end = BANDS.get(usize::from(question.band)).copied();
    // Longer prompts than the last band are probed at one length, merely to tell whether they have a price.
    let Some(rates) = prober.rates(end.unwrap_or(2 * BANDS[BANDS.len() - 1]), start) else {
        return Resolved::Unpriced;
    };
    if rates.input == 0 && rates.output == 0 {
        // The catalogue has no model with a rate of zero, only models without rates. That is no price, unless the name
        // says that it is one.
        return if question.model.ends_with(":free") { Resolved::Linear(rates) } else { Resolved::Unpriced };
    }
    match end {
        Some(end) if prober.are_linear(&rates, end) => Resolved::Linear(rates),
        _ => Resolved::Other { output_is_free: rates.output_is_free() },
    }
}

struct Prober<'a> {
    catalogue: &'a Calculator,
    question: &'a Question<'a>,
    candidate: &'a Candidate<'a>,
}

impl Prober<'_> {
    fn price(&self, tokens: &Tokens, time_unix_nano: u64) -> Option<PriceCalculation> {
        price(self.catalogue, self.candidate, self.question, &tokens.usage(), time_unix_nano).ok()
    }

    /// The rates of prompts of `input` tokens, were all of them linear.
    fn rates(&self, input: i64, time_unix_nano: u64) -> Option<Rates> {
        let nothing = Tokens { input: 0, cache_read: 0, cache_write: 0, output: 0, reasoning: 0 };
        let input_rate = |tokens| rate(self.price(&tokens, time_unix_nano)?.input_price, input);
        // Many tokens, so that the rate is told by all digits of the answer.
        let with_output = Tokens { input, output: 1_000_000, ..nothing };
        let with_reasoning = Tokens { reasoning: 1_000_000, ..with_output };
        let output_rate = |tokens| rate(self.price(&tokens, time_unix_nano)?.output_price, 1_000_000);
        Some(Rates {
            request: rate(self.price(&nothing, time_unix_nano)?.total_price, 1)?,
            input: input_rate(Tokens { input, ..nothing })?,
            cache_read: input_rate(Tokens { input, cache_read: input, ..nothing })?,
            cache_write: input_rate(Tokens { input, cache_write: input, ..nothing })?,
            output: output_rate(with_output)?,
            reasoning: output_rate(with_reasoning)?,
        })
    }

    /// Whether the rates give what the catalogue says, at both ends and in the middle of the band, at both ends of the
    /// slot.
    fn are_linear(&self, rates: &Rates, end: i64) -> bool {
        let start = match self.question.band {
            0 => 1,
            band => BANDS[usize::from(band) - 1] + 1,
        };
        let mixed = |input: i64| {
            let plain = Tokens { input, cache_read: 0, cache_write: 0, output: 0, reasoning: 0 };
            let output = input / 7 + 1;
            let cached =
                Tokens { cache_read: input / 3, cache_write: input / 5, output, reasoning: output / 3, ..plain };
            [plain, cached]
        };
        let probes = [start, start + (end - start) / 2, end].map(mixed);
        let agrees = |tokens: &Tokens| {
            self.question.times_unix_nano().into_iter().all(|time_unix_nano| {
                let Some(price) = self.price(tokens, time_unix_nano) else { return false };
                matches!(rates.cost(tokens), Cost::Usd(units) if is_same(units, price.total_price))
            })
        };
        probes.iter().flatten().all(agrees)
    }
}

/// Whether an exact cost is what a calculation in doubles gave.
fn is_same(units: i128, usd: f64) -> bool {
    let expected = usd * 1e12;
    (units as f64 - expected).abs() <= 1.0 + expected * 1e-12
}

/// The decimal rate that `count` tokens for `usd` dollars stand for: the one of fewest digits that is next to it, and
/// thus the one the catalogue has written down. None beyond 18 dollars a token.
fn rate(usd: f64, count: i64) -> Option<u64> {
    const DIGITS_MAX: u32 = 12;
    let per_million = usd * 1e6 / count as f64;
    let mut power = 1_u64;
    for digits in 0..=DIGITS_MAX {
        let scaled = per_million * power as f64;
        let rounded = scaled.round();
        if (rounded - scaled).abs() <= scaled * 1e-14 || digits == DIGITS_MAX {
            let is_small = rounded < 1e19;
            return is_small.then_some(rounded as u64)?.checked_mul(10_u64.pow(DIGITS_MAX - digits));
        }
        power *= 10;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Cost, Rates, Tokens, decimal_cost, rate};

    #[test]
    fn rates_are_the_decimals_that_were_written_down() {
        for (usd_per_million, expected) in [
            (0.0, 0),
            (15.0, 15_000_000_000_000),
            (0.15, 150_000_000_000),
            (0.27, 270_000_000_000),
            (0.30000000000000004, 300_000_000_000),
            (0.0045, 4_500_000_000),
            (0.08333333333333334, 83_333_333_333),
            (600.0, 600_000_000_000_000),
            (12_000.0, 12_000_000_000_000_000),
        ] {
            for count in [1, 7, 32_000, 199_999, 4_194_304] {
                assert_eq!(rate(usd_per_million * count as f64 / 1e6, count), Some(expected), "{usd_per_million}");
            }
        }
        assert_eq!(rate(1e3, 1), None);
        assert_eq!(rate(f64::INFINITY, 1), None);
    }

    #[test]
    fn sums_are_exact_and_rounded_half_to_even() {
        let rates =
            Rates { input: 500_000, cache_read: 499_999, cache_write: 1, output: 1_000_000, ..Rates::default() };
        let cost = |input, cache_read, cache_write, output| {
            rates.cost(&Tokens {
                input: input + cache_read + cache_write,
                cache_read,
                cache_write,
                output,
                reasoning: 0,
            })
        };
        assert_eq!(cost(1, 0, 0, 0), Cost::Usd(0));
        assert_eq!(cost(3, 0, 0, 0), Cost::Usd(2));
        assert_eq!(cost(5, 0, 0, 0), Cost::Usd(2));
        assert_eq!(cost(1, 0, 1, 0), Cost::Usd(1));
        assert_eq!(cost(0, 1, 0, 0), Cost::Usd(0));
        assert_eq!(cost(0, 1, 2, 0), Cost::Usd(1));
        assert_eq!(cost(0, 1, 1, 7), Cost::Usd(8));
        assert_eq!(cost(0, 1, 1, 8), Cost::Usd(8));
    }

    #[test]
    fn large_sums_are_as_exact_as_small_ones() {
        let rates = Rates { input: 500_000, output: 10_000_000_000_000, ..Rates::default() };
        let cost = |input, output| rates.cost(&Tokens { input, cache_read: 0, cache_write: 0, output, reasoning: 0 });
        let large = 4_000_000_000;
        assert_eq!(cost(1, large), Cost::Usd(40_000_000_000_000_000));
        assert_eq!(cost(3, large), Cost::Usd(40_000_000_000_000_002));
        assert_eq!(cost(0, 99_999_999_999), Cost::Usd(999_999_999_990_000_000));
        assert_eq!(cost(0, 100_000_000_000), Cost::OutOfRange);
        assert_eq!(cost(i64::MAX, i64::MAX), Cost::OutOfRange);
        let dear = Rates { input: u64::MAX, output: u64::MAX, ..Rates::default() };
        let all = Tokens { input: i64::MAX, cache_read: 0, cache_write: 0, output: i64::MAX, reasoning: 0 };
        assert_eq!(dear.cost(&all), Cost::OutOfRange);
    }

    #[test]
    fn doubles_are_rounded_by_their_exact_value() {
        for (usd, expected) in [
            (0.0, Cost::Usd(0)),
            (f64::MIN_POSITIVE, Cost::Usd(0)),
            (1e-300, Cost::Usd(0)),
            (5e-13, Cost::Usd(0)),
            (6e-13, Cost::Usd(1)),
            (0.0045, Cost::Usd(4_500_000_000)),
            (0.1 + 0.2, Cost::Usd(300_000_000_000)),
            (1.0, Cost::Usd(1_000_000_000_000)),
            // 2^-13 has 13 decimal digits, the last of which is a five: both go to the even neighbour.
            (0.000_122_070_312_5, Cost::Usd(122_070_312)),
            (0.000_366_210_937_5, Cost::Usd(366_210_938)),
            (999_999.5, Cost::Usd(999_999_500_000_000_000)),
            (1e6, Cost::OutOfRange),
            (f64::INFINITY, Cost::OutOfRange),
            (f64::NAN, Cost::Unknown),
            (-1.0, Cost::Unknown),
        ] {
            assert_eq!(decimal_cost(usd), expected, "{usd}");
        }
    }
}
