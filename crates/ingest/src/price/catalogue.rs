//! A catalogue of the user's own: negotiated prices, models on machines of one's own, prices of the past.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;
use toml::Spanned;

use super::rates::Rates;
use crate::decimal;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What `price_source` calls the catalogue; the file's name where it is not told.
    name: Option<String>,
    #[serde(default)]
    currencies: BTreeMap<String, Vec<FileCurrency>>,
    price: Vec<FilePrice>,
}

/// What one unit of a currency is worth from a day on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCurrency {
    valid_from: Option<Spanned<String>>,
    usd: Number,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePrice {
    model: Spanned<String>,
    provider: Option<String>,
    valid_from: Option<Spanned<String>>,
    /// How many tokens the rates are for: a million where it is not told.
    per_tokens: Option<Spanned<u64>>,
    currency: Option<Spanned<String>>,
    input: Number,
    output: Option<Number>,
    cache_read: Option<Number>,
    cache_write: Option<Number>,
    reasoning: Option<Number>,
    request: Option<Number>,
}

/// A decimal number, as a number or as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Int(i64),
    Float(f64),
    Text(String),
}

impl Number {
    /// Units of 1e-12.
    fn units(&self) -> Result<i128, String> {
        let text = match self {
            Self::Int(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Text(text) => text.trim().to_owned(),
        };
        let units = decimal::parse(&text).filter(|units| *units >= 0);
        units.ok_or_else(|| format!("`{text}` is no price: write a decimal number from 0 on, such as 2.50"))
    }
}

/// The price of one model from one day on.
#[derive(Debug)]
struct Price {
    /// In lower case, perhaps with stars.
    model: String,
    provider: Option<String>,
    valid_from_unix_nano: u64,
    valid_from: String,
    rates: Rates,
}

/// The user's own prices.
#[derive(Debug)]
pub(super) struct Catalogue {
    prices: Vec<Price>,
    source: String,
    checksum: u32,
}

const DAY_NS: u64 = 86_400_000_000_000;

/// The first nanosecond of a day written as `2026-01-31`.
fn day_unix_nano(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no day: write it as 2026-01-31");
    let parts: Vec<u64> = text.split('-').map_while(|part| part.parse().ok()).collect();
    let [year, month, day] = parts[..] else { return Err(wrong()) };
    let lengths = [
        31,
        if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) { 29 } else { 28 },
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let length = lengths.get((month as usize).wrapping_sub(1)).copied().ok_or_else(wrong)?;
    if !(1970..2500).contains(&year) || day == 0 || day > length || text.len() != 10 {
        return Err(wrong());
    }
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let before = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let within: u64 = lengths[..month as usize - 1].iter().sum::<u64>() + day - 1;
    Ok((before + within) * DAY_NS)
}

impl Catalogue {
    /// Reads a catalogue.
    pub(super) fn read(path: &str, text: &str) -> Result<Self, String> {
        let at = |place: usize, what: &str| {
            let line = text.as_bytes()[..place.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("{path}:{line}: {what}")
        };
        let file: File = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => at(span.start, error.message()),
            None => format!("{path}: {}", error.message()),
        })?;
        let mut prices: Vec<Price> = Vec::new();
        for told in &file.price {
            let place = told.model.span().start;
            for price in compile(&file, told, &at)
                .map_err(|what| if what.starts_with(path) { what } else { at(place, &what) })?
            {
                let same = |known: &Price| {
                    (&known.model, &known.provider, known.valid_from_unix_nano)
                        == (&price.model, &price.provider, price.valid_from_unix_nano)
                };
                if prices.iter().any(same) {
                    return Err(at(place, &format!("`{}` has a price from that day on already", price.model)));
                }
                prices.push(price);
            }
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let base = path.rsplit(['/', '\\']).next().unwrap_or(path);
        let source = format!("{} {checksum:08x}", file.name.as_deref().unwrap_or(base));
        Ok(Self { prices, source, checksum })
    }

    /// Its name, and a checksum as its version.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }

    /// The rates of a model at a time: those that name the model most closely, then the provider, then the latest day.
    pub(super) fn rates(&self, provider: Option<&str>, model: &str, time_unix_nano: u64) -> Option<Rates> {
        let model = model.to_lowercase();
        let last = model.rsplit('/').next().unwrap_or(&model);
        let about = self.prices.iter().filter(|price| {
            price.valid_from_unix_nano <= time_unix_nano
                && price.provider.as_deref().is_none_or(|known| Some(known) == provider)
        });
        let best = about.filter_map(|price| {
            let closeness = closeness(&price.model, &model).max(closeness(&price.model, last))?;
            Some(((closeness, price.provider.is_some(), price.valid_from_unix_nano), price))
        });
        best.max_by_key(|(rank, _)| *rank).map(|(_, price)| price.rates)
    }

    /// Model, provider and first day of each price.
    pub(super) fn listed(&self) -> Vec<[String; 3]> {
        let listed = self.prices.iter();
        listed
            .map(|price| [price.model.clone(), price.provider.clone().unwrap_or_default(), price.valid_from.clone()])
            .collect()
    }
}

/// How closely a pattern names a model: itself, itself without its date, or by so many letters beside the stars.
fn closeness(pattern: &str, model: &str) -> Option<usize> {
    const EXACT: usize = usize::MAX;
    if pattern == model {
        return Some(EXACT);
    }
    if pattern.contains('*') {
        return is_like(pattern, model).then(|| pattern.len() - pattern.matches('*').count());
    }
    let rest = model.strip_prefix(pattern)?;
    let digits = rest.bytes().filter(u8::is_ascii_digit).count();
    let is_date = rest.starts_with(['-', '@'])
        && digits >= 4
        && rest[1..].bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    (is_date || rest == "-latest").then_some(EXACT - 1)
}

/// Whether a text fits a pattern, `*` standing for anything.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// A price in US dollars: one for each rate of its currency that holds in its time.
fn compile(file: &File, told: &FilePrice, at: &dyn Fn(usize, &str) -> String) -> Result<Vec<Price>, String> {
    let day = |text: &Option<Spanned<String>>| match text {
        None => Ok(0),
        Some(text) => day_unix_nano(text.get_ref()).map_err(|what| at(text.span().start, &what)),
    };
    let from = day(&told.valid_from)?;
    let model = told.model.get_ref().trim().to_lowercase();
    if model.is_empty() {
        return Err("`model` is empty".to_owned());
    }
    // The first day of each, and what a unit is worth then in units of 1e-12 US dollars.
    let mut worths = vec![(0, 10_i128.pow(decimal::SCALE))];
    if let Some(currency) = told.currency.as_ref().filter(|currency| currency.get_ref() != "USD") {
        let unknown = || at(currency.span().start, &format!("`{}` stands not under [currencies]", currency.get_ref()));
        let rates = file.currencies.get(currency.get_ref()).ok_or_else(unknown)?;
        worths =
            rates.iter().map(|rate| Ok((day(&rate.valid_from)?, rate.usd.units()?))).collect::<Result<_, String>>()?;
        worths.sort_unstable();
    }
    let ends = worths.iter().skip(1).map(|(start, _)| *start).chain([u64::MAX]);
    let mut prices = Vec::new();
    for (&(start, worth), end) in worths.iter().zip(ends) {
        if end <= from {
            continue;
        }
        let valid_from_unix_nano = from.max(start);
        prices.push(Price {
            model: model.clone(),
            provider: told.provider.as_ref().map(|provider| provider.trim().to_lowercase()),
            valid_from_unix_nano,
            valid_from: told.valid_from.as_ref().map(|day| day.get_ref().clone()).unwrap_or_default(),
            rates: rates(told, worth, at)?,
        });
    }
    if prices.is_empty() {
        return Err("its currency has no rate in its time".to_owned());
    }
    Ok(prices)
}

fn rates(told: &FilePrice, worth: i128, at: &dyn Fn(usize, &str) -> String) -> Result<Rates, String> {
    let per_tokens = match &told.per_tokens {
        None => 1_000_000,
        Some(per) if *per.get_ref() > 0 && 1_000_000 % *per.get_ref() == 0 => *per.get_ref(),
        Some(per) => return Err(at(per.span().start, "`per_tokens` must divide a million: write 1, 1000 or 1000000")),
    };
    // Units of 1e-12 of the currency for so many tokens are units of 1e-18 for a token times a million over as many.
    let factor = i128::from(1_000_000 / per_tokens);
    let rate = |number: &Number, factor: i128| {
        let units = number.units()?.checked_mul(factor).and_then(|units| units.checked_mul(worth));
        let one = 10_i128.pow(decimal::SCALE);
        let rounded = units.map(|units| (units + one / 2) / one);
        rounded.and_then(|units| u64::try_from(units).ok()).ok_or_else(|| {
            let mut what = String::from("a rate is beyond 18 US dollars a token");
            let _ = write!(what, ": {number:?}");
            what
        })
    };
    let or = |number: &Option<Number>, other: u64| number.as_ref().map_or(Ok(other), |number| rate(number, factor));
    let input = rate(&told.input, factor)?;
    let output = or(&told.output, 0)?;
    Ok(Rates {
        // A million of the units above is one of 1e-18 for the request as a whole.
        request: told.request.as_ref().map_or(Ok(0), |number| rate(number, 1_000_000))?,
        input,
        cache_read: or(&told.cache_read, input)?,
        cache_write: or(&told.cache_write, input)?,
        output,
        reasoning: or(&told.reasoning, output)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Catalogue, closeness, day_unix_nano, is_like};

    #[test]
    fn days_are_counted_from_1970() {
        for (text, day) in [
            ("1970-01-01", 0),
            ("1970-12-31", 364),
            ("2000-03-01", 11_017),
            ("2024-02-29", 19_782),
            ("2026-11-20", 20_777),
        ] {
            assert_eq!(day_unix_nano(text), Ok(day * super::DAY_NS), "{text}");
        }
        for text in ["2023-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "soon", "", "2026-01-32", "20260101"] {
            assert!(day_unix_nano(text).is_err(), "{text}");
        }
    }

    #[test]
    fn patterns_name_models() {
        for (pattern, model, fits) in [
            ("gpt-4", "gpt-4", true),
            ("gpt-4", "gpt-4-0613", true),
            ("gpt-4o", "gpt-4o-2024-08-06", true),
            ("gpt-4", "gpt-4-32k", false),
            ("gpt-4", "gpt-4o", false),
            ("davinci", "davinci-002", false),
            ("claude-sonnet-4", "claude-sonnet-4@20250514", true),
            ("acme/*", "acme/guard-8b", true),
            ("*davinci*", "text-davinci-003", true),
            ("text-*-003", "text-davinci-003", true),
            ("text-*-002", "text-davinci-003", false),
            ("*", "anything", true),
        ] {
            assert_eq!(closeness(pattern, model).is_some(), fits, "{pattern} {model}");
        }
        assert!(closeness("gpt-4", "gpt-4") > closeness("gpt-*", "gpt-4"));
        assert!(closeness("gpt-4*", "gpt-4o") > closeness("gpt-*", "gpt-4o"));
        assert!(is_like("a*b*c", "a-b-b-c") && !is_like("a*b*c", "a-c-b"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, line, what) in [
            ("[[price]]\nmodel = \"a\"\n", 1, "input"),
            ("[[price]]\nmodel = \"a\"\ninput = \"cheap\"\n", 2, "`cheap` is no price"),
            ("[[price]]\nmodel = \"a\"\ninput = -1\n", 2, "is no price"),
            ("[[price]]\nmodel = \"a\"\ninput = 1\nvalid_from = \"2026-02-30\"\n", 4, "is no day"),
            ("[[price]]\nmodel = \"a\"\ninput = 1\nper_tokens = 300\n", 4, "must divide a million"),
            ("[[price]]\nmodel = \"a\"\ninput = 1\ncurrency = \"EUR\"\n", 4, "stands not under"),
            ("[[price]]\nmodel = \"a\"\ninput = 1\noutptu = 2\n", 4, "outptu"),
            ("[[price]]\nmodel = \"a\"\ninput = 1\n\n[[price]]\nmodel = \"A\"\ninput = 2\n", 6, "already"),
            ("[[price]]\nmodel = \"\"\ninput = 1\n", 2, "is empty"),
        ] {
            let error = Catalogue::read("/etc/prices.toml", text).map(|_| ()).expect_err(text);
            assert!(
                error.starts_with(&format!("/etc/prices.toml:{line}: ")) && error.contains(what),
                "{text}: {error}"
            );
        }
    }
}
