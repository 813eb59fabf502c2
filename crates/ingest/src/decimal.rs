//! US dollars as `DECIMAL(18,12)`: integers of 1e-12 dollars.

/// Digits behind the point.
pub(crate) const SCALE: u32 = 12;

/// The largest value of `DECIMAL(18,12)`.
pub(crate) const MAX: i128 = 999_999_999_999_999_999;

/// Reads a decimal number, rounded half-even to twelve digits. `None` where it is no number or does not fit.
pub(crate) fn parse(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().next().is_none() || !digits().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(SCALE);
    let mut value = 0i128;
    let mut rest = Rest::default();
    for (place, digit) in digits().enumerate() {
        if (place as i64) < point {
            value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
            if value > MAX {
                return None;
            }
        } else {
            rest.push(digit - b'0', place as i64 == point);
        }
    }
    for _ in (whole.len() + fraction.len()) as i64..point {
        if value == 0 {
            break;
        }
        value = value.checked_mul(10).filter(|&value| value <= MAX)?;
    }
    let rounded = value + i128::from(rest.rounds_up(value));
    (rounded <= MAX).then_some(if negative { -rounded } else { rounded })
}

/// The digits that are cut off.
#[derive(Default)]
struct Rest {
    first: u8,
    more: bool,
}

impl Rest {
    fn push(&mut self, digit: u8, first: bool) {
        if first {
            self.first = digit;
        } else {
            self.more |= digit != 0;
        }
    }

    fn rounds_up(&self, value: i128) -> bool {
        self.first > 5 || self.first == 5 && (self.more || value % 2 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX, parse};

    /// Scenario: numbers as producers write them. Guarantee: exact, or rounded half-even once.
    #[test]
    fn decimals_are_read_exactly() {
        for (text, value) in [
            ("0", Some(0)),
            ("0.00064", Some(640_000_000)),
            ("1e-12", Some(1)),
            ("2.5e-12", Some(2)),
            ("3.5e-12", Some(4)),
            ("2.50000000000000000001e-12", Some(3)),
            ("0.5e-12", Some(0)),
            ("5e-13", Some(0)),
            ("6e-13", Some(1)),
            ("5e-20", Some(0)),
            ("-1.5", Some(-1_500_000_000_000)),
            ("1.2E3", Some(1_200_000_000_000_000)),
            ("999999.999999999999", Some(MAX)),
            ("1000000", None),
            ("1e300", None),
            ("0e300", Some(0)),
            ("", None),
            (".", None),
            ("abc", None),
            ("1.2.3", None),
        ] {
            assert_eq!(parse(text), value, "{text}");
        }
    }
}
