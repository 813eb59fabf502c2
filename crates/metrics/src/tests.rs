//! Laws, for values and histograms of every sort.

mod conversions;
mod encoding;
mod laws;
mod mapping;
mod sums;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{ExponentialPoint, Histogram, Kind};

/// A finite double of any magnitude, each exponent as likely as another.
fn any_finite() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite())
}

fn subnormal() -> impl Strategy<Value = f64> {
    (1u64..1 << 52, 0u32..52).prop_map(|(bits, shift)| f64::from_bits((bits >> shift).max(1)))
}

/// Positive values of one distribution.
fn positive_values() -> impl Strategy<Value = Vec<f64>> {
    let uniform = || 1e-9..1.0f64;
    prop_oneof![
        vec(any_finite().prop_map(f64::abs).prop_filter("not zero", |value| *value > 0.0), 1..150),
        vec((uniform(), uniform()), 1..400).prop_map(|pairs| pairs
            .into_iter()
            .map(|(u, v)| 1e8 * ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()).exp())
            .collect()),
        vec(uniform().prop_map(|u| u.powf(-4.0)), 1..300),
        (any_finite().prop_map(|value| value.abs().max(f64::MIN_POSITIVE)), 1usize..50)
            .prop_map(|(value, count)| vec![value; count]),
        vec(subnormal(), 1..100),
        vec(
            (0i32..64, -3i64..4).prop_map(|(exponent, steps)| {
                f64::from_bits(2f64.powi(exponent).to_bits().wrapping_add_signed(steps))
            }),
            1..60
        ),
    ]
}

/// Values with signs and zeros among them.
fn signed_values() -> impl Strategy<Value = Vec<f64>> {
    (positive_values(), vec(0u8..5, 400)).prop_map(|(values, signs)| {
        let signed = values.into_iter().zip(signs).map(|(value, sign)| match sign {
            0 => -value,
            1 => 0.0,
            _ => value,
        });
        signed.collect()
    })
}

/// Integers as durations, token counts and extremes are.
fn integers() -> impl Strategy<Value = Vec<i128>> {
    prop_oneof![
        vec(0i128..200_000, 1..200),
        vec(any::<i64>().prop_map(i128::from), 1..100),
        vec(any::<i128>(), 1..60),
        vec((0u32..40).prop_map(|shift| 1i128 << shift), 1..60),
    ]
}

fn of_doubles(values: &[f64]) -> Histogram {
    let mut histogram = Histogram::new(Kind::Double);
    for &value in values {
        histogram.insert(value, 1).expect("few values");
    }
    histogram
}

fn of_units(scale: u8, units: &[i128]) -> Histogram {
    let mut histogram = Histogram::new(Kind::Decimal { scale });
    for &units in units {
        histogram.insert_units(units, 1).expect("few values");
    }
    histogram
}

/// Histograms of doubles as they come from anywhere: coarser, with unknown totals, zero thresholds, values that are not
/// finite, converted, or empty.
fn any_histogram_of_doubles() -> impl Strategy<Value = Histogram> {
    let known = prop_oneof![3 => Just(true), 1 => Just(false)];
    let scale = prop_oneof![3 => Just(6), 2 => -11..=6];
    let threshold = prop_oneof![3 => Just(0.0), 1 => positive_values().prop_map(|values| values[0])];
    let converted = prop_oneof![3 => Just(0.0), 1 => 0.01..2.0, 1 => Just(f64::INFINITY)];
    let values = prop_oneof![8 => signed_values(), 1 => Just(Vec::new())];
    (values, scale, [known.clone(), known.clone(), known], threshold, converted, 0u64..3).prop_map(
        |(values, scale, [sum, min, max], threshold, converted, non_finite)| {
            let mut histogram = of_doubles(&values);
            histogram.downscale(scale).expect("a scale that exists");
            let full = histogram.to_exponential();
            // The sum of extremes may be beyond the doubles, and then it is unknown.
            let mut histogram = Histogram::from_exponential(&ExponentialPoint {
                sum: full.sum.filter(|_| sum),
                min: full.min.filter(|_| min),
                max: full.max.filter(|_| max),
                ..full
            })
            .expect("what was written is read");
            histogram.zero_threshold = threshold;
            histogram.conversion_error = converted;
            histogram.insert(f64::NAN, non_finite).expect("few values");
            histogram
        },
    )
}

fn any_histogram() -> impl Strategy<Value = Histogram> {
    let decimals = (prop_oneof![Just(0u8), Just(12), Just(38)], integers(), prop_oneof![Just(6), -11..=6]);
    prop_oneof![
        any_histogram_of_doubles(),
        decimals.prop_map(|(decimal_scale, units, scale)| {
            let mut histogram = of_units(decimal_scale, &units);
            histogram.downscale(scale).expect("a scale that exists");
            histogram
        }),
    ]
}
