//! Whether foreign histograms come and go as they are.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{any_histogram_of_doubles, of_doubles, of_units, positive_values, signed_values};
use crate::{
    ErrorKind, ExplicitHistogram, ExplicitPoint, ExponentialPoint, Histogram, NativeBuckets, NativeHistogram,
    NativeSpan, OffsetCounts,
};

proptest! {
    /// Scenario: any histogram without zero threshold, to OTLP and back. Guarantee: the same buckets, count and extremes;
    /// the sum rounded once; and the second way changes nothing.
    #[test]
    fn exponential_histograms_round_trip(values in signed_values(), scale in -11i32..=6) {
        let mut histogram = of_doubles(&values);
        histogram.downscale(scale).expect("a scale that exists");
        let point = histogram.to_exponential();
        let back = Histogram::from_exponential(&point).expect("what was written is read");
        prop_assert!(back.buckets().eq(histogram.buckets()));
        prop_assert_eq!((back.count(), back.scale(), back.min(), back.max()),
            (histogram.count(), scale, histogram.min(), histogram.max()));
        prop_assert_eq!(back.sum(), histogram.sum().filter(|sum| sum.is_finite()));
        prop_assume!(back.sum().is_some());
        prop_assert_eq!(back.to_exponential(), point);
    }

    /// Scenario: the same with Prometheus, which has no extremes.
    #[test]
    fn native_histograms_round_trip(values in signed_values(), scale in -4i32..=6) {
        let mut histogram = of_doubles(&values);
        histogram.downscale(scale).expect("a scale that exists");
        let native = histogram.to_native().expect("a schema");
        let back = Histogram::from_native(&native).expect("what was written is read");
        prop_assert!(back.buckets().eq(histogram.buckets()));
        prop_assert_eq!((back.count(), back.scale(), back.max()), (histogram.count(), scale, None));
        prop_assume!(native.sum.is_finite());
        prop_assert_eq!(back.to_native(), Ok(native));
    }

    /// Scenario: values bucketed by a producer at a finer scale, by a logarithm. Guarantee: what we would have counted
    /// ourselves, up to a producer's rounding at bounds, which the values here keep away from.
    #[test]
    fn finer_scales_become_ours(steps in vec(-40_000i32..40_000, 1..50), finer in 7i32..=20) {
        // The middle of a bucket at the finer scale, so that rounding cannot leave it.
        let values: Vec<f64> = steps.iter().map(|&step| ((f64::from(step) + 0.5) / 2f64.powi(finer)).exp2()).collect();
        let low = steps.iter().copied().min().expect("there are some");
        let mut counts = vec![0; (steps.iter().copied().max().expect("there are some") - low + 1) as usize];
        steps.iter().for_each(|&step| counts[(step - low) as usize] += 1);
        let point = ExponentialPoint {
            scale: finer,
            count: values.len() as u64,
            positive: OffsetCounts { offset: low, counts },
            ..ExponentialPoint::default()
        };
        let read = Histogram::from_exponential(&point).expect("valid");
        prop_assert_eq!(read.scale(), 6);
        prop_assert!(read.buckets().eq(of_doubles(&values).buckets()));
    }

    /// Scenario: any histogram with anything unknown. Guarantee: what is exported is read back, and no bucket lies below the
    /// zero threshold any more.
    #[test]
    fn exports_are_valid(histogram in any_histogram_of_doubles()) {
        let point = histogram.to_exponential();
        let back = Histogram::from_exponential(&point).expect("what was written is read");
        prop_assert_eq!(back.count(), histogram.count());
        prop_assert!(back.zero_threshold() >= histogram.zero_threshold());
        prop_assert_eq!(back.to_exponential(), point);
        let overlaps = back.buckets().any(|bucket| bucket.upper > back.zero_threshold() && bucket.lower < back.zero_threshold());
        prop_assert!(!overlaps, "no bucket reaches below the zero threshold");
    }

    /// Scenario: values of any distribution in buckets of a producer's choice. Guarantee: bounds and counts are kept, halves
    /// merge to the whole, and a quantile of the conversion is within the error it tells.
    #[test]
    fn explicit_histograms_keep_bounds_and_tell_their_error(
        values in positive_values(), mut bounds in vec(1e-3..1e9f64, 0..12), extremes in any::<bool>(), q in 0.0..=1.0f64,
    ) {
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let point = |values: &[f64]| {
            let mut counts = vec![0; bounds.len() + 1];
            values.iter().for_each(|value| counts[bounds.partition_point(|bound| bound < value)] += 1);
            let (min, max) = (values.iter().copied().reduce(f64::min), values.iter().copied().reduce(f64::max));
            let sum = of_doubles(values).sum();
            let (min, max) = if extremes { (min, max) } else { (None, None) };
            ExplicitPoint { bounds: bounds.clone(), counts, count: values.len() as u64, sum, min, max }
        };
        let whole = ExplicitHistogram::new(&point(&values)).expect("valid");
        prop_assert_eq!(whole.bounds(), &bounds);
        prop_assert_eq!(whole.to_point().counts, point(&values).counts);
        prop_assert_eq!(ExplicitHistogram::decode(&whole.encode()), Ok(whole.clone()));

        let (left, right) = values.split_at(values.len() / 2);
        let mut halves = ExplicitHistogram::new(&point(left)).expect("valid");
        halves.merge(&ExplicitHistogram::new(&point(right)).expect("valid")).expect("equal bounds");
        prop_assert_eq!(halves.counts(), whole.counts());
        prop_assert_eq!(halves.to_point().max, whole.to_point().max);

        let converted = whole.to_histogram();
        prop_assert_eq!(Histogram::decode(&converted.encode()), Ok(converted.clone()));
        prop_assert_eq!((converted.count(), converted.min()), (whole.count(), whole.to_point().min));
        prop_assert!(!extremes || converted.relative_error().is_finite());
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let exact = sorted[converted.quantile_rank(q).expect("there are values") as usize - 1];
        let answer = converted.quantile(q).expect("there are values");
        let tolerance = (converted.relative_error() + 1e-12) * exact + 2.0 * f64::from_bits(1);
        prop_assert!((answer - exact).abs() <= tolerance, "{} for {}", answer, exact);
    }

    /// Scenario: spans and deltas at random. Guarantee: refused, or read with the counts they claim; never a panic.
    #[test]
    fn hostile_native_histograms_are_refused(
        spans in vec((any::<i32>(), prop_oneof![4 => 0u32..4, 1 => any::<u32>()]), 0..5),
        deltas in vec(prop_oneof![4 => -5i64..9, 1 => any::<i64>()], 0..9),
        schema in -6i32..10, count in 0u64..40, zero_count in prop_oneof![0u64..4, Just(u64::MAX)],
    ) {
        let spans = spans.into_iter().map(|(offset, length)| NativeSpan { offset, length }).collect();
        let native = NativeHistogram {
            schema, count, zero_count, positive: NativeBuckets { spans, deltas }, sum: f64::NAN, ..Default::default()
        };
        if let Ok(histogram) = Histogram::from_native(&native) {
            prop_assert_eq!(histogram.count() + histogram.non_finite_count(), count);
        }
    }

    /// Scenario: runs of buckets anywhere at any scale. Guarantee: as above.
    #[test]
    fn hostile_exponential_histograms_are_refused(
        scale in prop_oneof![-14i32..30, any::<i32>()], offset in any::<i32>(),
        counts in vec(prop_oneof![4 => 0u64..9, 1 => any::<u64>()], 0..9),
        zero_threshold in any::<f64>(), min in proptest::option::of(any::<f64>()), max in proptest::option::of(any::<f64>()),
    ) {
        let count = counts.iter().fold(0u64, |sum, count| sum.wrapping_add(*count));
        let positive = OffsetCounts { offset, counts };
        let point = ExponentialPoint { scale, count, zero_threshold, min, max, positive, ..Default::default() };
        if let Ok(histogram) = Histogram::from_exponential(&point) {
            prop_assert_eq!(histogram.count() + histogram.non_finite_count(), count);
            prop_assert_eq!(Histogram::decode(&histogram.encode()), Ok(histogram));
        }
    }
}

/// Scenario: what Prometheus writes for 1, 2, 4 at schema 0 and 6. Guarantee: its index is the exponent of the upper bound.
#[test]
fn native_indexes_are_those_of_upper_bounds() {
    let histogram = of_doubles(&[0.0, 1.0, 2.0, 2.0, 4.0]);
    let native = histogram.to_native().expect("a schema");
    let spans = vec![
        NativeSpan { offset: 0, length: 1 },
        NativeSpan { offset: 63, length: 1 },
        NativeSpan { offset: 63, length: 1 },
    ];
    assert_eq!(native.positive, NativeBuckets { spans, deltas: vec![1, 1, -1] });
    assert_eq!((native.schema, native.count, native.zero_count, native.sum), (6, 5, 1, 9.0));

    let coarse = NativeHistogram {
        schema: 0,
        count: 5,
        sum: 9.0,
        zero_count: 1,
        positive: NativeBuckets { spans: vec![NativeSpan { offset: 0, length: 3 }], deltas: vec![1, 1, -1] },
        ..NativeHistogram::default()
    };
    let mut downscaled = histogram;
    downscaled.downscale(0).expect("a scale that exists");
    assert_eq!(downscaled.to_native(), Ok(coarse.clone()));
    let mut two = Histogram::from_native(&coarse).expect("valid");
    two.merge(&of_doubles(&[3.0])).expect("same kind");
    assert_eq!((two.scale(), two.count(), two.sum(), two.max()), (0, 6, Some(12.0), None));
}

/// Scenario: what producers get wrong. Guarantee: an error that says what.
#[test]
fn contradictions_are_named() {
    let buckets = |offset: i32, counts: &[u64]| OffsetCounts { offset, counts: counts.to_vec() };
    let good = ExponentialPoint { count: 3, positive: buckets(0, &[1, 2]), ..ExponentialPoint::default() };
    assert!(Histogram::from_exponential(&good).is_ok());
    for (point, kind, why) in [
        (ExponentialPoint { count: 4, ..good.clone() }, ErrorKind::Invalid, "claims 4 values but holds 3"),
        (ExponentialPoint { scale: -12, ..good.clone() }, ErrorKind::Unsupported, "scale -12"),
        (ExponentialPoint { positive: buckets(1025, &[3]), ..good.clone() }, ErrorKind::Invalid, "bucket 1025"),
        (ExponentialPoint { negative: buckets(i32::MAX, &[3]), ..good.clone() }, ErrorKind::Invalid, "beyond all"),
        (ExponentialPoint { zero_threshold: f64::NAN, ..good.clone() }, ErrorKind::Invalid, "threshold NaN"),
        (ExponentialPoint { min: Some(3.0), max: Some(2.0), ..good.clone() }, ErrorKind::Invalid, "minimum 3 above"),
        (ExponentialPoint { sum: Some(1.0), ..ExponentialPoint::default() }, ErrorKind::Invalid, "of no values"),
        (
            ExponentialPoint { zero_count: u64::MAX, count: 2, ..good.clone() },
            ErrorKind::Overflow,
            "at most 18446744073709551615",
        ),
    ] {
        let error = Histogram::from_exponential(&point).expect_err(why);
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(why), "{error} should say: {why}");
    }

    let good = ExplicitPoint { bounds: vec![1.0, 2.0], counts: vec![1, 1, 0], count: 2, ..ExplicitPoint::default() };
    assert!(ExplicitHistogram::new(&good).is_ok());
    for (point, why) in [
        (ExplicitPoint { bounds: vec![2.0, 1.0], ..good.clone() }, "do not ascend"),
        (ExplicitPoint { bounds: vec![1.0, f64::INFINITY], ..good.clone() }, "not finite"),
        (ExplicitPoint { counts: vec![2], ..good.clone() }, "2 bounds but 1 counts"),
        (ExplicitPoint { count: 1, ..good.clone() }, "claims 1 values"),
        (ExplicitPoint { min: Some(1.5), ..good.clone() }, "beyond its minimum or maximum"),
    ] {
        let error = ExplicitHistogram::new(&point).expect_err(why);
        assert!(error.to_string().contains(why), "{error} should say: {why}");
    }
    let other = ExplicitPoint { bounds: vec![1.0, 3.0], ..good.clone() };
    let mut histogram = ExplicitHistogram::new(&good).expect("valid");
    let error = histogram.merge(&ExplicitHistogram::new(&other).expect("valid")).expect_err("other bounds");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
}

/// Scenario: infinities and NaN as producers count them. Guarantee: counted apart, the rest is read.
#[test]
fn foreign_infinities_are_counted_apart() {
    let native = NativeHistogram {
        schema: 3,
        count: 4,
        sum: f64::NAN,
        positive: NativeBuckets {
            spans: vec![NativeSpan { offset: 8, length: 1 }, NativeSpan { offset: 1024 * 8 - 8, length: 1 }],
            deltas: vec![2, -1],
        },
        ..NativeHistogram::default()
    };
    let read = Histogram::from_native(&native).expect("valid");
    assert_eq!((read.count(), read.non_finite_count(), read.sum()), (2, 2, None));
    assert_eq!(read.buckets().map(|bucket| bucket.upper).collect::<Vec<_>>(), [2.0]);
}

/// Scenario: the default bounds of SDKs, whose first is zero. Guarantee: zeros stay zeros, a known least value makes the
/// first bucket's error finite, an unknown greatest one leaves the last infinite.
#[test]
fn open_buckets_tell_an_infinite_error() {
    let mut point = ExplicitPoint {
        bounds: vec![0.0, 5.0, 10.0],
        counts: vec![3, 0, 4, 1],
        count: 8,
        min: Some(0.0),
        ..ExplicitPoint::default()
    };
    let open = ExplicitHistogram::new(&point).expect("valid").to_histogram();
    assert_eq!((open.zero_count(), open.relative_error()), (3, f64::INFINITY));
    point.max = Some(12.0);
    let closed = ExplicitHistogram::new(&point).expect("valid").to_histogram();
    assert_eq!(closed.zero_count(), 3);
    assert!((closed.relative_error() - 1.0 / 3.0).abs() < 0.01, "{}", closed.relative_error());
    assert_eq!((closed.max(), closed.quantile(1.0)), (Some(12.0), Some(12.0)));
}

/// Scenario: integers and decimals leave as doubles. Guarantee: the same buckets and totals.
#[test]
fn decimals_leave_as_doubles() {
    let cost = of_units(12, &[640_000_000, 2_500_000_000_000]);
    let point = cost.to_exponential();
    assert_eq!((point.sum, point.min, point.max), (Some(2.50064), Some(0.00064), Some(2.5)));
    assert!(Histogram::from_exponential(&point).expect("valid").buckets().eq(of_doubles(&[0.00064, 2.5]).buckets()));
}
