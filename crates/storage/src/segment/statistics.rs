//! Statistics of a segment for the Delta log.
//!
//! Bounds may be wider than the values, never narrower: another reader skips a file by them.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute;
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, SecondsFormat};
use serde_json::{Map, Number, Value, json};

use crate::delta::format_date;
use crate::promotion::Shape;

/// Characters of a text bound.
const TEXT_BOUND_CHARS: usize = 32;

/// Digits of a bound that is no integer. Parsers that are not exact (`serde_json`'s is not, by default) take the digits as
/// an integer, make it a double, and multiply or divide once by a power of ten. That is exact, and the bound stays where it
/// is, while the integer and the power are exact doubles: thirteen digits, with the zeros that stand for places before the
/// point and one behind it, and powers up to [`EXACT_POWER`].
const EXACT_DIGITS: usize = 13;

/// The largest power of ten that is an exact double; bounds beyond it are not told.
const EXACT_POWER: f64 = 1e22;

/// Minimum and maximum as the log holds them; `None` where none can be told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Bounds {
    min: Option<Value>,
    max: Option<Value>,
}

/// The statistics of rows: `numRecords`, and for the table's statistics columns and the promoted ones `minValues`, `maxValues`, `nullCount`.
pub(super) fn of(shape: Shape<'_>, batches: &[RecordBatch], rows: usize) -> Value {
    let own = shape.spec.statistics.iter().map(|name| (*name, shape.spec.index_of(name)));
    let promoted = shape.promoted.iter().map(|column| column.name.as_str()).zip(shape.spec.columns.len()..);
    let columns =
        own.chain(promoted).map(|(name, index)| (name, batches.iter().map(|batch| batch.column(index)).collect()));
    with(None, rows, columns)
}

/// The statistics of rows as they are known, with those of some columns.
pub(super) fn with<'a>(
    known: Option<&Value>,
    rows: usize,
    columns: impl Iterator<Item = (&'a str, Vec<&'a ArrayRef>)>,
) -> Value {
    let of = |key: &str| known.and_then(|known| known.get(key)?.as_object().cloned()).unwrap_or_default();
    let (mut min_values, mut max_values, mut null_count): (Map<_, _>, Map<_, _>, Map<_, _>) =
        (of("minValues"), of("maxValues"), of("nullCount"));
    for (name, arrays) in columns {
        let nulls: usize = arrays.iter().map(|array| array.null_count()).sum();
        let bounds = bounds_of(&arrays);
        for (values, bound) in [(&mut min_values, bounds.min), (&mut max_values, bounds.max)] {
            values.remove(name);
            values.extend(bound.map(|bound| (name.to_owned(), bound)));
        }
        null_count.insert(name.to_owned(), json!(nulls));
    }
    json!({"numRecords": rows, "minValues": min_values, "maxValues": max_values, "nullCount": null_count})
}

fn bounds_of(arrays: &[&ArrayRef]) -> Bounds {
    let Some(first) = arrays.first() else { return Bounds::default() };
    match first.data_type() {
        DataType::Utf8 => {
            let texts = || arrays.iter().map(|array| array.as_string::<i32>());
            let min = texts().filter_map(compute::min_string).min();
            let max = texts().filter_map(compute::max_string).max();
            Bounds { min: min.map(|text| json!(lower_text(text))), max: max.and_then(upper_text).map(Value::from) }
        }
        DataType::Int64 => {
            let (min, max) = extremes(arrays, |array| {
                let array = array.as_primitive::<Int64Type>();
                (compute::min(array), compute::max(array))
            });
            Bounds { min: min.map(Value::from), max: max.map(Value::from) }
        }
        DataType::Date32 => {
            let (min, max) = extremes(arrays, |array| {
                let array = array.as_primitive::<Date32Type>();
                (compute::min(array), compute::max(array))
            });
            Bounds { min: min.map(|days| json!(format_date(days))), max: max.map(|days| json!(format_date(days))) }
        }
        DataType::Timestamp(_, _) => {
            let (min, max) = extremes(arrays, |array| {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                (compute::min(array), compute::max(array))
            });
            Bounds {
                min: min.and_then(|micros| timestamp(micros.div_euclid(1_000))),
                max: max
                    .and_then(|micros| timestamp(micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0))),
            }
        }
        DataType::Decimal128(_, scale) => {
            let (min, max) = extremes(arrays, |array| {
                let array = array.as_primitive::<Decimal128Type>();
                (compute::min(array), compute::max(array))
            });
            let number = |value: i128, up: bool| decimal(value, u32::try_from(*scale).ok()?, up);
            Bounds { min: min.and_then(|value| number(value, false)), max: max.and_then(|value| number(value, true)) }
        }
        DataType::Float64 => float_bounds(arrays),
        _ => Bounds::default(),
    }
}

fn extremes<T: Ord>(arrays: &[&ArrayRef], of: impl Fn(&ArrayRef) -> (Option<T>, Option<T>)) -> (Option<T>, Option<T>) {
    arrays.iter().fold((None, None), |(min, max), array| {
        let (low, high) = of(array);
        (min.into_iter().chain(low).min(), max.into_iter().chain(high).max())
    })
}

/// NaN sorts above everything in Delta readers, so that a file with one has no maximum; infinities have no JSON.
fn float_bounds(arrays: &[&ArrayRef]) -> Bounds {
    let (mut min, mut max, mut any_nan) = (f64::INFINITY, f64::NEG_INFINITY, false);
    for array in arrays {
        for value in array.as_primitive::<Float64Type>().iter().flatten() {
            any_nan |= value.is_nan();
            // f64::min and f64::max pass over NaN.
            min = min.min(value);
            max = max.max(value);
        }
    }
    if min > max {
        return Bounds::default();
    }
    Bounds { min: double(min, false), max: if any_nan { None } else { double(max, true) } }
}

/// A double as a JSON number, rounded outwards to what every parser reads back as it is.
fn double(value: f64, up: bool) -> Option<Value> {
    /// What is closer to zero would need a larger power.
    const SMALLEST: f64 = 1e-7;
    let magnitude = value.abs();
    let rounded = if magnitude < SMALLEST {
        match (up, value > 0.0) {
            (true, true) => SMALLEST,
            // Zero counts as both zeros.
            (true, false) => 0.0,
            (false, true) => -0.0,
            (false, false) if value == 0.0 => -0.0,
            (false, false) => -SMALLEST,
        }
    } else {
        let nearest = |value: f64| format!("{value:.digits$e}", digits = EXACT_DIGITS - 1).parse::<f64>().ok();
        // Twice what rounding to so many digits can take away.
        let margin = magnitude * 1e-12;
        match nearest(value)? {
            same if same == value => same,
            _ => nearest(if up { value + margin } else { value - margin })?,
        }
    };
    exact_number(rounded)
}

fn exact_number(value: f64) -> Option<Value> {
    if value.abs() > EXACT_POWER {
        return None;
    }
    Number::from_f64(value).map(Value::Number)
}

/// The text itself or its beginning, which sorts before it.
pub(super) fn lower_text(text: &str) -> &str {
    text.char_indices().nth(TEXT_BOUND_CHARS).map_or(text, |(end, _)| &text[..end])
}

/// The text itself, or the smallest text of bounded length that sorts after everything with its beginning; `None` where
/// there is no such text.
pub(super) fn upper_text(text: &str) -> Option<String> {
    let beginning = lower_text(text);
    if beginning.len() == text.len() {
        return Some(text.to_owned());
    }
    let mut chars: Vec<char> = beginning.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            // The code points between are no characters.
            '\u{D7FF}' => Some('\u{E000}'),
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// Milliseconds as RFC 3339. Years that other readers cannot parse have no bound.
fn timestamp(millis: i64) -> Option<Value> {
    let time = DateTime::from_timestamp_millis(millis)?;
    let readable = (1..=9999).contains(&time.year());
    readable.then(|| json!(time.to_rfc3339_opts(SecondsFormat::Millis, true)))
}

/// A decimal as a JSON number, rounded outwards to what every parser reads back as it is.
fn decimal(value: i128, scale: u32, up: bool) -> Option<Value> {
    let mut unit = 1_i128;
    while (value / unit).unsigned_abs() >= 10_u128.pow(EXACT_DIGITS as u32) {
        unit *= 10;
    }
    let floor = value.div_euclid(unit);
    let digits = if up && value.rem_euclid(unit) > 0 { floor + 1 } else { floor };
    let rounded = digits.checked_mul(unit)?;
    let one = 10_u128.checked_pow(scale)?;
    let (whole, fraction) = (rounded.unsigned_abs() / one, rounded.unsigned_abs() % one);
    let sign = if rounded < 0 { "-" } else { "" };
    exact_number(format!("{sign}{whole}.{fraction:0width$}", width = scale as usize).parse().ok()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    fn bounds(array: impl Array + 'static) -> (Option<Value>, Option<Value>) {
        let array: ArrayRef = Arc::new(array);
        let bounds = bounds_of(&[&array]);
        (bounds.min, bounds.max)
    }

    #[test]
    fn long_texts_are_cut_below_and_raised_above() {
        let long = "x".repeat(40);
        assert_eq!(lower_text(&long), "x".repeat(32));
        assert_eq!(upper_text(&long).unwrap(), format!("{}y", "x".repeat(31)));
        assert_eq!(upper_text("short").unwrap(), "short");
        let end = format!("a{}", "\u{10FFFF}".repeat(40));
        assert_eq!(upper_text(&end).unwrap(), "b");
        assert_eq!(upper_text(&"\u{10FFFF}".repeat(40)), None);
        assert_eq!(upper_text(&"\u{D7FF}".repeat(33)).unwrap().chars().last(), Some('\u{E000}'));
    }

    #[test]
    fn times_are_widened_to_whole_milliseconds() {
        let times = |values: Vec<i64>| bounds(TimestampMicrosecondArray::from(values).with_timezone("UTC"));
        let (min, max) = times(vec![1_768_478_400_123_456, 1_768_478_400_123_457]);
        assert_eq!(min.unwrap(), "2026-01-15T12:00:00.123Z");
        assert_eq!(max.unwrap(), "2026-01-15T12:00:00.124Z");
        assert_eq!(times(vec![1_768_478_400_123_000]).1.unwrap(), "2026-01-15T12:00:00.123Z");
        assert_eq!(times(vec![-1]).0.unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(times(vec![i64::MIN, i64::MAX]), (None, None));
    }

    #[test]
    fn decimals_are_numbers_of_few_digits_rounded_outwards() {
        let money = |values: Vec<i128>| bounds(Decimal128Array::from(values).with_precision_and_scale(18, 12).unwrap());
        assert_eq!(money(vec![150_000_000_000, 2_500_000_000_000]), (Some(json!(0.15)), Some(json!(2.5))));
        assert_eq!(money(vec![1]), (Some(json!(1e-12)), Some(json!(1e-12))));
        let (min, max) = money(vec![123_456_789_012_345_678]);
        assert_eq!(
            (min.unwrap().to_string(), max.unwrap().to_string()),
            ("123456.7890123".into(), "123456.7890124".into())
        );
        let (min, max) = money(vec![-123_456_789_012_345_678]);
        assert_eq!(
            (min.unwrap().to_string(), max.unwrap().to_string()),
            ("-123456.7890124".into(), "-123456.7890123".into())
        );
    }

    #[test]
    fn floats_have_no_bound_that_json_or_readers_cannot_keep() {
        assert_eq!(bounds(Float64Array::from(vec![1.5, f64::NAN])), (Some(json!(1.5)), None));
        assert_eq!(bounds(Float64Array::from(vec![f64::NAN])), (None, None));
        assert_eq!(bounds(Float64Array::from(vec![f64::INFINITY, 2.0])), (Some(json!(2.0)), None));
        assert_eq!(bounds(Float64Array::from(vec![0.0])), (Some(json!(-0.0)), Some(json!(0.0))));
        assert_eq!(bounds(Float64Array::from(vec![None::<f64>])), (None, None));
        assert_eq!(bounds(Float64Array::from(vec![f64::MIN, f64::MAX])), (None, None));
        let tiny = f64::MIN_POSITIVE;
        assert_eq!(bounds(Float64Array::from(vec![-tiny, tiny])), (Some(json!(-1e-7)), Some(json!(1e-7))));
        let (min, max) = bounds(Float64Array::from(vec![1.0 / 3.0]));
        assert_eq!(
            (min.unwrap().to_string(), max.unwrap().to_string()),
            ("0.333333333333".into(), "0.3333333333337".into())
        );
    }

    /// What the log and a checkpoint do to a number.
    fn reread(bound: &Value) -> Value {
        serde_json::from_str(&bound.to_string()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn every_double_lies_within_bounds_that_stay_where_they_are(
            value in prop_oneof![prop::num::f64::ANY, -1e17..1e17_f64, -1e23..1e23_f64, -1e4..1e4_f64]
        ) {
            prop_assume!(value.is_finite());
            prop_assert!(value.abs() > 9e21 || double(value, true).is_some() && double(value, false).is_some());
            if let Some(max) = double(value, true) {
                prop_assert!(value <= max.as_f64().unwrap(), "{} above {}", value, max);
                prop_assert_eq!(&reread(&max), &max);
            }
            if let Some(min) = double(value, false) {
                prop_assert!(min.as_f64().unwrap() <= value, "{} below {}", value, min);
                prop_assert_eq!(&reread(&min), &min);
            }
        }

        #[test]
        fn every_decimal_has_bounds_that_stay_where_they_are(digits: i128, shrink in 0..37_u32, wide: bool) {
            let limit = 10_i128.pow(if wide { 38 } else { 18 });
            let value = (digits / 10_i128.pow(shrink)) % limit;
            for up in [false, true] {
                let bound = decimal(value, 12, up);
                prop_assert!(wide || bound.is_some(), "{}", value);
                if let Some(bound) = bound {
                    prop_assert_eq!(&reread(&bound), &bound);
                }
            }
        }
    }
}
