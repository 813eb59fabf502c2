//! Durations and sizes as people write them: a whole number and a unit.

use std::time::Duration;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const DURATION_UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads a size such as `64MiB`, in bytes.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_scaled(text, SIZE_UNITS, "size", "64MiB")
}

/// Reads a duration such as `10s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_scaled(text, DURATION_UNITS, "duration", "10s").map(Duration::from_millis)
}

/// Writes a size with the largest unit that divides it.
pub(crate) fn format_bytes(bytes: u64) -> String {
    format_scaled(bytes, &SIZE_UNITS[..5])
}

/// Writes a duration with the largest unit that divides it.
pub(crate) fn format_duration(duration: Duration) -> String {
    format_scaled(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATION_UNITS)
}

fn parse_scaled(text: &str, units: &[(&str, u64)], what: &str, example: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = (&text[..digits_end], text[digits_end..].trim_start());
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    if digits.is_empty() {
        return Err(format!("`{text}` is no {what}: write a whole number and a unit, such as {example}"));
    }
    if unit.is_empty() {
        return Err(format!("`{text}` has no unit: write a {what} such as {example} (units: {})", names()));
    }
    let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is no unit of a {what}: use one of {}", names()));
    };
    let too_large = || format!("`{text}` is too large for a {what}");
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number.checked_mul(*scale).ok_or_else(too_large)
}

fn format_scaled(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, scale): &&(&str, u64)| value >= *scale && value.is_multiple_of(*scale);
    match units.iter().rev().find(fits) {
        Some((name, scale)) => format!("{}{name}", value / scale),
        None => format!("{value}{}", units[0].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_writes_it_back() {
        for (text, bytes) in [("0B", 0), ("512B", 512), ("64MiB", 64 << 20), ("3GiB", 3 << 30), ("2TiB", 2 << 40)] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(format_bytes(bytes), text);
        }
        assert_eq!(parse_bytes("10MB"), Ok(10_000_000));
        assert_eq!(parse_bytes(" 10 MiB "), Ok(10 << 20));
        for (text, millis) in
            [("250ms", 250), ("10s", 10_000), ("15min", 900_000), ("5h", 18_000_000), ("2d", 172_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn refuses_bare_numbers_wrong_units_and_overflow() {
        for (text, part) in [
            ("10", "has no unit"),
            ("", "is no duration"),
            ("s", "is no duration"),
            ("-5s", "is no duration"),
            ("1.5s", "is no unit"),
            ("10m", "use one of ms, s, min, h, d"),
            ("99999999999999999999s", "too large"),
            ("18446744073709551615d", "too large"),
        ] {
            let message = parse_duration(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        for (text, part) in [("64", "has no unit"), ("64mib", "is no unit"), ("MiB", "is no size")] {
            let message = parse_bytes(text).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
