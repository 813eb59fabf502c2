//! The column encoding.
//!
//! A histogram has exactly one encoding, and only that one is read back: equal histograms have equal bytes, and bytes that
//! were tampered with are refused or are another valid histogram. Numbers are LEB128 varints, signed ones in zigzag form,
//! doubles eight bytes, little end first.
//!
//! ```text
//! layout            1 byte: 1; the layout of explicit bounds is 2, any later version another number
//! flags             1 byte, below
//! scale             signed
//! decimal scale     1 byte, only of decimals
//! zero count        varint
//! non-finite count  varint, if flagged: above 0
//! zero threshold    double, if flagged: above 0
//! conversion error  double, if flagged: above 0, perhaps infinite
//! positive buckets, then negative ones, if flagged:
//!   how many        varint, of negative ones above 0
//!   first index     signed
//!   each bucket     varint: (count - 1) * 2 + 1 where buckets are skipped after it, then how many
//! sum, min, max     where there are values: of decimals always, of doubles if flagged
//! ```
//!
//! A sum is a varint of twice its length in bytes, plus one if it is negative; then, unless it is zero, a varint of the
//! place of its lowest byte that is not zero, and the bytes of its magnitude from there. Decimals are counted in units of
//! their last place, doubles in units of `2^-1074`. The least and greatest decimal are signed varints.

use crate::buckets::Buckets;
use crate::error::Result;
use crate::histogram::{Histogram, Place, place_of_units};
use crate::scale::{MAX_SCALE, MIN_SCALE, known_indexes};
use crate::totals::{DECIMAL_SCALE_MAX, DecimalTotals, DoubleSum, DoubleTotals, Kind, Totals};
use crate::varint::{Reader, put_signed, put_varint};
use crate::wide::Wide;

/// The first byte of an encoded histogram.
const LAYOUT: u8 = 1;

/// The first byte of an encoded [`ExplicitHistogram`](crate::ExplicitHistogram).
pub(crate) const EXPLICIT_LAYOUT: u8 = 2;

const DOUBLE: u8 = 1;
const SUM: u8 = 1 << 1;
const MIN: u8 = 1 << 2;
const MAX: u8 = 1 << 3;
const NON_FINITE: u8 = 1 << 4;
const THRESHOLD: u8 = 1 << 5;
const CONVERTED: u8 = 1 << 6;
const NEGATIVE: u8 = 1 << 7;

impl Histogram {
    /// The histogram as bytes, about one for each populated bucket.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_into(&mut bytes);
        bytes
    }

    /// Appends what [`Self::encode`] gives.
    pub fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(64 + 2 * (self.positive.len() + self.negative.len()));
        bytes.extend([LAYOUT, self.flags()]);
        put_signed(bytes, i128::from(self.scale));
        if let Kind::Decimal { scale } = self.kind() {
            bytes.push(scale);
        }
        put_varint(bytes, u128::from(self.zero_count));
        if self.non_finite_count > 0 {
            put_varint(bytes, u128::from(self.non_finite_count));
        }
        for number in [self.zero_threshold, self.conversion_error] {
            if number > 0.0 {
                bytes.extend(number.to_le_bytes());
            }
        }
        put_buckets(bytes, &self.positive);
        if !self.negative.is_empty() {
            put_buckets(bytes, &self.negative);
        }
        if self.count > 0 {
            match &self.totals {
                Totals::Decimal(totals) => {
                    put_wide(bytes, &totals.sum);
                    put_signed(bytes, totals.min);
                    put_signed(bytes, totals.max);
                }
                Totals::Double(totals) => put_double_totals(bytes, totals),
            }
        }
    }

    fn flags(&self) -> u8 {
        let totals = match &self.totals {
            Totals::Decimal(_) => 0,
            Totals::Double(totals) => DOUBLE | double_flags(totals, self.count),
        };
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        totals
            | flag(NON_FINITE, self.non_finite_count > 0)
            | flag(THRESHOLD, self.zero_threshold > 0.0)
            | flag(CONVERTED, self.conversion_error > 0.0)
            | flag(NEGATIVE, !self.negative.is_empty())
    }

    /// Reads an encoded histogram.
    ///
    /// # Errors
    /// For all bytes that [`Self::encode`] does not write, naming the place. Nothing is allocated beyond 16 times their
    /// number.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        match reader.byte()? {
            LAYOUT => {}
            EXPLICIT_LAYOUT => return Err(reader.corrupt("it has explicit bounds and must be converted, layout 2")),
            other => return Err(reader.corrupt(&format!("unknown layout {other}"))),
        }
        let flags = reader.byte()?;
        let scale = reader.signed()?;
        reader.check((i128::from(MIN_SCALE)..=i128::from(MAX_SCALE)).contains(&scale), "no such scale")?;
        let scale = scale as i32;
        let kind = if flags & DOUBLE != 0 {
            Kind::Double
        } else {
            // Unknown totals, zeros of others and converted bounds come as doubles only.
            let doubles_only = SUM | MIN | MAX | NON_FINITE | THRESHOLD | CONVERTED;
            reader.check(flags & doubles_only == 0, "flags of doubles among decimals")?;
            let scale = reader.byte()?;
            reader.check(scale <= DECIMAL_SCALE_MAX, "too many decimal places")?;
            Kind::Decimal { scale }
        };
        let mut histogram = Self { scale, zero_count: reader.u64()?, ..Self::new(kind) };
        if flags & NON_FINITE != 0 {
            histogram.non_finite_count = reader.u64()?;
            reader.check(histogram.non_finite_count > 0, "a flagged count is zero")?;
        }
        if flags & THRESHOLD != 0 {
            let is_right = |threshold: f64| threshold > 0.0 && threshold.is_finite();
            histogram.zero_threshold = reader.f64(is_right, "the zero threshold is not above zero")?;
        }
        if flags & CONVERTED != 0 {
            histogram.conversion_error = reader.f64(|error| error > 0.0, "the conversion error is not above zero")?;
        }
        histogram.count = histogram.zero_count;
        histogram.positive = take_buckets(reader, scale, &mut histogram.count)?;
        if flags & NEGATIVE != 0 {
            histogram.negative = take_buckets(reader, scale, &mut histogram.count)?;
            reader.check(!histogram.negative.is_empty(), "flagged buckets are empty")?;
        }
        histogram.take_totals(reader, flags)?;
        reader.finish()?;
        Ok(histogram)
    }

    fn take_totals(&mut self, reader: &mut Reader<'_>, flags: u8) -> Result<()> {
        if self.count == 0 {
            return reader.check(flags & (SUM | MIN | MAX) == 0, "there are totals of no values");
        }
        let totals = match self.kind() {
            Kind::Double => Totals::Double(Box::new(take_double_totals(reader, flags, self.count)?)),
            Kind::Decimal { scale } => {
                let totals =
                    DecimalTotals { scale, sum: take_wide(reader)?, min: reader.signed()?, max: reader.signed()? };
                self.check_decimal_totals(reader, &totals)?;
                Totals::Decimal(totals)
            }
        };
        self.totals = totals;
        Ok(())
    }

    /// Least and greatest value lie in the first and last bucket, and the sum between the count times each.
    fn check_decimal_totals(&self, reader: &Reader<'_>, totals: &DecimalTotals) -> Result<()> {
        let shift = MAX_SCALE - self.scale;
        let place = |units: i128| match place_of_units(units, totals.scale) {
            Place::Negative(index) => Place::Negative(index >> shift),
            Place::Zero => Place::Zero,
            Place::Positive(index) => Place::Positive(index >> shift),
        };
        let mut places = self.places().map(|(place, _)| place);
        let first = places.next();
        let last = places.next_back().or(first);
        reader.check(totals.min <= totals.max, "the minimum is above the maximum")?;
        reader.check(first == Some(place(totals.min)), "the minimum is not in the first bucket")?;
        reader.check(last == Some(place(totals.max)), "the maximum is not in the last bucket")?;
        let product = |units: i128| {
            let mut product = Wide::<4>::ZERO;
            product.add_product(units.unsigned_abs(), self.count, 0, units < 0);
            product
        };
        let at_most = |left: &Wide<4>, right: &Wide<4>| {
            let mut difference = *right;
            difference.add(&left.negated());
            !difference.is_negative()
        };
        // No product takes more than 193 bits, so a sum within 250 cannot make a difference wrap around.
        let is_possible = totals.sum.bit_length() <= 250
            && at_most(&product(totals.min), &totals.sum)
            && at_most(&totals.sum, &product(totals.max));
        reader.check(is_possible, "the sum does not fit count, minimum and maximum")
    }
}

fn put_buckets(bytes: &mut Vec<u8>, buckets: &Buckets) {
    put_varint(bytes, buckets.len() as u128);
    let mut buckets = buckets.iter().peekable();
    if let Some(&(first, _)) = buckets.peek() {
        put_signed(bytes, i128::from(first));
    }
    while let Some((index, count)) = buckets.next() {
        let skipped = buckets.peek().map_or(0, |&(next, _)| next - index - 1);
        put_varint(bytes, u128::from(count - 1) << 1 | u128::from(skipped > 0));
        if skipped > 0 {
            put_varint(bytes, skipped as u128);
        }
    }
}

/// Reads buckets and adds their counts to the count of all.
fn take_buckets(reader: &mut Reader<'_>, scale: i32, total: &mut u64) -> Result<Buckets> {
    let length = reader.u64()?;
    // Every bucket takes a byte, so a length beyond the bytes is wrong, and refused before memory is taken for it.
    reader.check(length <= reader.remaining() as u64, "more buckets than bytes")?;
    if length == 0 {
        return Ok(Buckets::EMPTY);
    }
    let known = known_indexes(scale);
    let wrong = "a bucket lies beyond all doubles";
    let first = reader.signed()?;
    reader.check(i32::try_from(first).is_ok_and(|first| known.contains(&first)), wrong)?;
    let mut index = first as i32;
    let mut entries = Vec::with_capacity(length as usize);
    for left in (0..length).rev() {
        reader.check(index <= *known.end(), wrong)?;
        let token = reader.varint()?;
        let count = u64::try_from(token >> 1).ok().and_then(|count| count.checked_add(1));
        let sum = count.and_then(|count| total.checked_add(count));
        let (Some(count), Some(sum)) = (count, sum) else { return Err(reader.corrupt("counts overflow")) };
        *total = sum;
        entries.push((index, count));
        index += 1;
        if token & 1 == 1 {
            let skipped = reader.u64()?;
            reader.check(skipped > 0 && left > 0, "no bucket is skipped, or none follows")?;
            index = index.saturating_add(i32::try_from(skipped).unwrap_or(i32::MAX));
        }
    }
    Ok(Buckets::Sparse(entries))
}

fn put_wide<const N: usize>(bytes: &mut Vec<u8>, sum: &Wide<N>) {
    let (negative, magnitude) = sum.to_magnitude();
    let Some(start) = magnitude.iter().position(|&byte| byte != 0) else {
        return put_varint(bytes, 0);
    };
    let end = magnitude.iter().rposition(|&byte| byte != 0).map_or(start, |last| last + 1);
    put_varint(bytes, ((end - start) << 1 | usize::from(negative)) as u128);
    put_varint(bytes, start as u128);
    bytes.extend(&magnitude[start..end]);
}

fn take_wide<const N: usize>(reader: &mut Reader<'_>) -> Result<Wide<N>> {
    let token = reader.u64()?;
    if token == 0 {
        return Ok(Wide::ZERO);
    }
    let start = reader.u64()?;
    let limit = Wide::<N>::BYTES as u64;
    reader.check(token >> 1 <= limit && start <= limit, "a sum is too large")?;
    let magnitude = reader.take((token >> 1) as usize)?;
    let is_trimmed = magnitude.first().is_some_and(|&byte| byte != 0) && magnitude.last() != Some(&0);
    reader.check(is_trimmed, "a sum is longer than it needs to be")?;
    Wide::from_magnitude(token & 1 == 1, start as usize, magnitude).ok_or_else(|| reader.corrupt("a sum is too large"))
}

/// Which totals [`put_double_totals`] writes.
pub(crate) fn double_flags(totals: &DoubleTotals, count: u64) -> u8 {
    let flag = |bit: u8, set: bool| if set && count > 0 { bit } else { 0 };
    flag(SUM, totals.sum.is_some()) | flag(MIN, totals.min.is_some()) | flag(MAX, totals.max.is_some())
}

/// The totals of at least one value.
pub(crate) fn put_double_totals(bytes: &mut Vec<u8>, totals: &DoubleTotals) {
    if let Some(sum) = &totals.sum {
        put_wide(bytes, sum);
    }
    for extreme in [totals.min, totals.max].into_iter().flatten() {
        bytes.extend(extreme.to_le_bytes());
    }
}

/// Reads the flagged totals of `count` values, at least one.
pub(crate) fn take_double_totals(reader: &mut Reader<'_>, flags: u8, count: u64) -> Result<DoubleTotals> {
    let is_right = |value: f64| value.is_finite() && value.to_bits() != (-0.0f64).to_bits();
    let wrong = "the minimum or maximum is not finite or is -0";
    let sum = if flags & SUM != 0 { Some(take_wide(reader)?) } else { None };
    let min = if flags & MIN != 0 { Some(reader.f64(is_right, wrong)?) } else { None };
    let max = if flags & MAX != 0 { Some(reader.f64(is_right, wrong)?) } else { None };
    let is_ordered = min.zip(max).is_none_or(|(min, max)| min <= max);
    reader.check(is_ordered, "the minimum is above the maximum")?;
    // Each value has at most 2,098 bits. Within this no number of merges makes the sum wrap around.
    let bits = 2098 + (u64::BITS - count.leading_zeros());
    let is_possible = sum.is_none_or(|sum: DoubleSum| sum.bit_length() <= bits);
    reader.check(is_possible, "the sum does not fit the count")?;
    Ok(DoubleTotals { sum, min, max })
}
