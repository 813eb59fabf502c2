//! Single values of the proto3 JSON mapping: integers, doubles, ids, base64, enum names.

use super::reader::number_len;
use super::schema::EnumNames;

/// Reads a JSON number that is a whole one, exactly: `17`, `5.0`, `1e3`, `1.5e1`. The answer is beyond every 64-bit
/// type's range where the number is.
pub(super) fn whole_number(text: &[u8]) -> Result<i128, &'static str> {
    let (negative, unsigned) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let magnitude = if unsigned.len() <= 19 && unsigned.iter().all(u8::is_ascii_digit) {
        unsigned.iter().fold(0, |value, digit| value * 10 + i128::from(digit - b'0'))
    } else {
        scaled_magnitude(unsigned)?
    };
    Ok(if negative { -magnitude } else { magnitude })
}

/// Digits of the largest 64-bit number.
const DIGITS_MAX: usize = 20;

fn scaled_magnitude(unsigned: &[u8]) -> Result<i128, &'static str> {
    let exponent_at = unsigned.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match exponent_at {
        Some(at) => (&unsigned[..at], exponent(&unsigned[at + 1..])),
        None => (unsigned, 0),
    };
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    let fraction_digits = mantissa.len().saturating_sub(point + 1);
    let digits = || mantissa.iter().filter(|&&byte| byte != b'.');
    let significant_from = digits().take_while(|&&digit| digit == b'0').count();
    let zeros_at_end = digits().rev().take_while(|&&digit| digit == b'0').count();
    let count = digits().count();
    if significant_from == count {
        return Ok(0);
    }
    let significant = count - significant_from - zeros_at_end;
    let shift = exponent.saturating_add(zeros_at_end as i64).saturating_sub(fraction_digits as i64);
    let shift = usize::try_from(shift).map_err(|_| "not a whole number")?;
    if significant.saturating_add(shift) > DIGITS_MAX {
        return Err("out of range");
    }
    let value = digits().skip(significant_from).take(significant);
    let value = value.fold(0, |value, digit| value * 10 + i128::from(digit - b'0'));
    Ok(value * 10_i128.pow(shift as u32))
}

fn exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let add = |value: i64, digit: &u8| value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    let magnitude = digits.iter().fold(0, add);
    if negative { -magnitude } else { magnitude }
}

/// Reads a JSON number as the nearest double.
pub(super) fn double(text: &[u8]) -> Result<f64, &'static str> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    match parsed {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => Err("out of range"),
        None => Err("not a number"),
    }
}

/// Reads a double that was written as a string.
pub(super) fn double_in_string(text: &[u8]) -> Result<f64, &'static str> {
    match text {
        b"NaN" => Ok(f64::NAN),
        b"Infinity" => Ok(f64::INFINITY),
        b"-Infinity" => Ok(f64::NEG_INFINITY),
        _ => double(number_in_string(text)?),
    }
}

/// A string that is a JSON number as a whole.
pub(super) fn number_in_string(text: &[u8]) -> Result<&[u8], &'static str> {
    if number_len(text) == Some(text.len()) { Ok(text) } else { Err("string is not a number") }
}

/// Appends the bytes of an id of `expected_bytes` bytes. The error is the character, counted from 1, that is not
/// hexadecimal. An odd number of digits gives bytes of a length that is neither zero nor the expected one, so that it
/// can be taken neither for an id nor for an absent one.
pub(super) fn hex(text: &[u8], expected_bytes: usize, bytes: &mut Vec<u8>) -> Result<(), usize> {
    let nibble = |at: usize| match text[at] {
        digit @ b'0'..=b'9' => Ok(digit - b'0'),
        digit @ b'a'..=b'f' => Ok(digit - b'a' + 10),
        digit @ b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(at + 1),
    };
    let (pairs, odd) = (text.len() / 2, text.len() % 2 == 1);
    for pair in 0..pairs {
        bytes.push(nibble(pair * 2)? << 4 | nibble(pair * 2 + 1)?);
    }
    if odd {
        bytes.push(nibble(text.len() - 1)? << 4);
        if pairs + 1 == expected_bytes {
            bytes.push(0);
        }
    }
    Ok(())
}

/// Appends the bytes of base64 text, standard or URL-safe, padded or not. The error is the character, counted from 1,
/// at which it stops being base64.
pub(super) fn base64(text: &[u8], bytes: &mut Vec<u8>) -> Result<(), usize> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if padding > 2 || (padding > 0 && !text.len().is_multiple_of(4)) || digits.len() % 4 == 1 {
        return Err(text.len());
    }
    bytes.reserve(digits.len() / 4 * 3 + 2);
    for (group, chunk) in digits.chunks(4).enumerate() {
        let mut bits = 0;
        for (at, &digit) in chunk.iter().enumerate() {
            let sextet = sextet(digit).ok_or(group * 4 + at + 1)?;
            bits |= sextet << (18 - 6 * at);
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
    }
    Ok(())
}

fn sextet(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

/// The number of an enum's name, with or without the prefix of the enum, in any case.
pub(super) fn enum_number(text: &[u8], names: &EnumNames) -> Option<i32> {
    let has_prefix = text.get(..names.prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(names.prefix.as_bytes()));
    let short = if has_prefix { &text[names.prefix.len()..] } else { text };
    let at = names.short_names.iter().position(|name| short.eq_ignore_ascii_case(name.as_bytes()))?;
    i32::try_from(at).ok()
}
