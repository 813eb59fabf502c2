//! What holds for histograms of any values.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{any_histogram, any_histogram_of_doubles, integers, of_doubles, of_units, positive_values, signed_values};
use crate::{ErrorKind, Histogram, Kind};

fn merged(left: &Histogram, right: &Histogram) -> Histogram {
    let mut merged = left.clone();
    merged.merge(right).expect("same kind, few values");
    merged
}

/// Splits items into parts, one for each item's label, merges these in the order of `order`, and checks that all together
/// give the same.
fn check_split<T: Copy>(
    items: &[T],
    labels: &[usize],
    order: &[usize],
    make: impl Fn(&[T]) -> Histogram,
) -> Result<(), TestCaseError> {
    let part = |label: usize| {
        let own = items.iter().zip(labels.iter().cycle()).filter(|(_, own)| **own == label);
        make(&own.map(|(item, _)| *item).collect::<Vec<_>>())
    };
    let mut parts: Vec<Histogram> = order.iter().map(|&label| part(label)).collect();
    // Merging pairs from both ends makes a tree whose shape depends on the order.
    while parts.len() > 1 {
        let last = parts.pop().expect("more than one");
        let middle = parts.len() / 2;
        parts[middle] = merged(&parts[middle], &last);
    }
    let whole = make(items);
    prop_assert_eq!(&parts[0], &whole);
    prop_assert_eq!(parts[0].encode(), whole.encode());
    Ok(())
}

/// The value at a quantile's rank.
fn at_rank<T: Copy>(sorted: &[T], histogram: &Histogram, q: f64) -> T {
    let rank = histogram.quantile_rank(q).expect("there are values");
    sorted[rank as usize - 1]
}

proptest! {
    /// Scenario: values in any number of parts, merged in any order and grouping. Guarantee: the histogram of all values, to
    /// the last bit and byte.
    #[test]
    fn any_split_merges_to_the_same(
        doubles in signed_values(),
        integers in integers(),
        labels in vec(0usize..7, 1..60),
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        check_split(&doubles, &labels, &order, of_doubles)?;
        check_split(&integers, &labels, &order, |units| of_units(0, units))?;
        check_split(&integers, &labels, &order, |units| of_units(12, units))?;
    }

    /// Scenario: many values at once. Guarantee: the same as one by one, at any scale, after others too.
    #[test]
    fn many_are_as_one_by_one(doubles in signed_values(), integers in vec(any::<(i64, u32)>(), 0..100), scale in -11i32..=6) {
        let integers: Vec<i64> = integers.into_iter().map(|(integer, shift)| integer >> (shift % 64)).collect();
        let doubles: Vec<f64> = doubles.into_iter().chain([f64::NAN, -0.0, f64::INFINITY]).collect();
        let mut all = of_doubles(&[1.0]);
        let mut each = all.clone();
        all.downscale(scale).expect("a scale that exists");
        all.insert_all(&doubles).expect("few values");
        each.merge(&of_doubles(&doubles)).expect("few values");
        each.downscale(scale).expect("a scale that exists");
        prop_assert_eq!(all, each);
        let magnitudes: Vec<i64> = integers.iter().map(|integer| integer & i64::MAX).collect();
        for (decimal_scale, integers) in [(0, &integers), (0, &magnitudes), (12, &integers), (12, &magnitudes)] {
            let mut all = of_units(decimal_scale, &[1]);
            let mut each = all.clone();
            all.downscale(scale).expect("a scale that exists");
            // Twice, as the second time most buckets are there.
            for _ in 0..2 {
                all.insert_all_units(integers).expect("few values");
                integers.iter().for_each(|&units| each.insert_units(i128::from(units), 1).expect("few values"));
            }
            each.downscale(scale).expect("a scale that exists");
            prop_assert_eq!(all, each);
        }
    }

    /// Scenario: three histograms from anywhere: coarse, converted, with unknown totals. Guarantee: merging is associative
    /// and commutative, and the empty histogram changes nothing.
    #[test]
    fn merging_is_associative_and_commutative(
        a in any_histogram_of_doubles(), b in any_histogram_of_doubles(), c in any_histogram_of_doubles(),
    ) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &Histogram::new(Kind::Double)), a.clone());
        prop_assert_eq!(merged(&Histogram::new(Kind::Double), &a), a);
    }

    /// Scenario: any histogram, downscaled at once or in steps, before or after a merge. Guarantee: the same.
    #[test]
    fn downscaling_commutes_with_merging(
        a in any_histogram_of_doubles(), b in any_histogram_of_doubles(), scale in -11i32..=6, step in -11i32..=6,
    ) {
        let downscaled = |histogram: &Histogram, scale: i32| {
            let mut histogram = histogram.clone();
            histogram.downscale(scale).expect("a scale that exists");
            histogram
        };
        let after = downscaled(&merged(&a, &b), scale);
        prop_assert_eq!(&merged(&downscaled(&a, scale), &b), &after);
        prop_assert_eq!(downscaled(&downscaled(&a, step.max(scale)), scale), downscaled(&a, scale));
        prop_assert_eq!(after.count(), a.count() + b.count());
    }

    /// Scenario: positive values of any distribution. Guarantee: every quantile is within 0.55 % of the value at its rank;
    /// among subnormal numbers half a step more.
    #[test]
    fn quantiles_are_close(values in positive_values(), q in 0.0..=1.0f64) {
        let histogram = of_doubles(&values);
        prop_assert!(histogram.relative_error() < 0.0055);
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        for q in [q, 0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
            let exact = at_rank(&sorted, &histogram, q);
            let answer = histogram.quantile(q).expect("there are values");
            let half_step = if exact < 2.0 * f64::MIN_POSITIVE { f64::from_bits(1) } else { 0.0 };
            prop_assert!((answer - exact).abs() <= 0.0055 * exact + half_step, "{}: {} for {}", q, answer, exact);
        }
        prop_assert_eq!(histogram.quantile(0.0), sorted.first().copied());
        prop_assert_eq!(histogram.quantile(1.0), sorted.last().copied());
    }

    /// Scenario: any values, coarse scales. Guarantee: every quantile is within the error that the histogram tells.
    #[test]
    fn quantiles_keep_the_error_they_tell(values in signed_values(), scale in -11i32..=6, q in 0.0..=1.0f64) {
        let mut histogram = of_doubles(&values);
        histogram.downscale(scale).expect("a scale that exists");
        let mut sorted = values;
        sorted.sort_by(f64::total_cmp);
        let exact = at_rank(&sorted, &histogram, q);
        let answer = histogram.quantile(q).expect("there are values");
        let tolerance = (histogram.relative_error() + 1e-12) * exact.abs() + f64::from_bits(1);
        prop_assert!((answer - exact).abs() <= tolerance, "{} for {}", answer, exact);
    }

    /// Scenario: integers. Guarantee: quantiles as for doubles, least, greatest and count exact.
    #[test]
    fn quantiles_of_integers_are_close(units in integers(), q in 0.0..=1.0f64) {
        let histogram = of_units(0, &units);
        let mut sorted = units;
        sorted.sort_unstable();
        let exact = at_rank(&sorted, &histogram, q) as f64;
        let answer = histogram.quantile(q).expect("there are values");
        prop_assert!((answer - exact).abs() <= 0.0055 * exact.abs(), "{} for {}", answer, exact);
        prop_assert_eq!(histogram.min_units(), sorted.first().copied());
        prop_assert_eq!(histogram.max_units(), sorted.last().copied());
        prop_assert_eq!(histogram.count(), sorted.len() as u64);
        prop_assert_eq!(histogram.buckets().map(|bucket| bucket.count).sum::<u64>(), sorted.len() as u64);
    }

    /// Scenario: any values, any number, one of the values too. Guarantee: the true rank lies within the bounds told, which
    /// differ by one bucket at most; the estimate lies there too, and never falls.
    #[test]
    fn ranks_lie_within_their_bounds(
        values in signed_values(), other in signed_values(), scale in prop_oneof![Just(6), -11i32..=6],
    ) {
        let mut histogram = of_doubles(&values);
        histogram.downscale(scale).expect("a scale that exists");
        let mut numbers: Vec<f64> = values.iter().chain(&other).copied().collect();
        numbers.extend(histogram.buckets().flat_map(|bucket| [bucket.lower, bucket.upper]));
        numbers.extend([f64::NEG_INFINITY, 0.0, f64::INFINITY]);
        numbers.sort_by(f64::total_cmp);
        let most = histogram.buckets().map(|bucket| bucket.count).max().unwrap_or(0);
        let mut before = 0.0;
        for x in numbers {
            let exact = values.iter().filter(|value| **value <= x).count() as u64;
            let (low, high) = histogram.rank_bounds(x).expect("a number");
            prop_assert!(low <= exact && exact <= high && high - low <= most, "{}: {} {} {}", x, low, exact, high);
            let rank = histogram.rank(x).expect("a number");
            prop_assert!(low as f64 <= rank && rank <= high as f64 && before <= rank, "{}: {}", x, rank);
            prop_assert_eq!(histogram.fraction_below(x), Some(rank / values.len() as f64));
            before = rank;
        }
    }

    /// Scenario: any histogram. Guarantee: buckets ascend, hold all values, and enclose every value that made them.
    #[test]
    fn buckets_ascend_and_are_complete(histogram in any_histogram()) {
        let buckets: Vec<_> = histogram.buckets().collect();
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), histogram.count());
        prop_assert!(buckets.iter().all(|bucket| bucket.lower <= bucket.upper && bucket.count > 0));
        if histogram.zero_threshold() == 0.0 {
            prop_assert!(buckets.is_sorted_by(|left, right| left.upper <= right.lower));
        }
    }

    /// Scenario: each value as often as its weight says, or the weight at once. Guarantee: the same; weight zero is nothing.
    #[test]
    fn weights_are_repetitions(values in signed_values(), weights in vec(0u64..5, 1..20)) {
        let (mut weighted, mut repeated) = (Histogram::new(Kind::Double), Histogram::new(Kind::Double));
        for (&value, &weight) in values.iter().zip(weights.iter().cycle()) {
            weighted.insert(value, weight).expect("few values");
            (0..weight).for_each(|_| repeated.insert(value, 1).expect("few values"));
        }
        prop_assert_eq!(weighted, repeated);
    }
}

/// Scenario: no values, wrong questions. Guarantee: no answer rather than a wrong one.
#[test]
fn nothing_is_known_of_no_values() {
    for kind in [Kind::INTEGER, Kind::Decimal { scale: 12 }, Kind::Double] {
        let empty = Histogram::new(kind);
        assert_eq!((empty.min(), empty.max(), empty.mean(), empty.quantile(0.5)), (None, None, None, None));
        assert_eq!((empty.min_units(), empty.max_units(), empty.fraction_below(1.0)), (None, None, None));
        assert_eq!((empty.sum(), empty.rank(1.0), empty.count()), (Some(0.0), Some(0.0), 0));
    }
    let one = of_doubles(&[3.0]);
    for q in [-0.1, 1.1, f64::NAN] {
        assert_eq!(one.quantile(q), None);
    }
    assert_eq!((one.rank(f64::NAN), one.quantile(0.5), one.mean()), (None, Some(3.0), Some(3.0)));
}

/// Scenario: NaN and infinities among values. Guarantee: they are counted apart and change no other number.
#[test]
fn numbers_that_are_not_finite_are_counted_apart() {
    let mut histogram = of_doubles(&[1.0, 2.0]);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        histogram.insert(value, 2).expect("few values");
    }
    assert_eq!((histogram.non_finite_count(), histogram.count()), (6, 2));
    assert_eq!((histogram.sum(), histogram.max(), histogram.quantile(1.0)), (Some(3.0), Some(2.0), Some(2.0)));
}

/// Scenario: kinds mixed, counts beyond 64 bits. Guarantee: an error that says so, and nothing is changed.
#[test]
fn failures_change_nothing() {
    let mut integers = of_units(0, &[5]);
    let mut doubles = of_doubles(&[5.0]);
    let before = (integers.clone(), doubles.clone());
    let error = integers.merge(&doubles).expect_err("kinds differ");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(error.to_string(), "a histogram of doubles does not merge into one of integers");
    assert_eq!(integers.merge(&of_units(12, &[5])).expect_err("scales differ").kind(), ErrorKind::Mismatch);
    assert_eq!(integers.insert(1.0, 1).expect_err("a double").kind(), ErrorKind::Mismatch);
    assert_eq!(doubles.insert_units(1, 1).expect_err("an integer").kind(), ErrorKind::Mismatch);
    assert_eq!(integers.insert_units(1, u64::MAX).expect_err("too many").kind(), ErrorKind::Overflow);
    assert_eq!(doubles.insert(1.0, u64::MAX).expect_err("too many").kind(), ErrorKind::Overflow);
    assert_eq!(integers.insert_all(&[1.0]).expect_err("a double").kind(), ErrorKind::Mismatch);
    assert_eq!(doubles.insert_all_units(&[1]).expect_err("an integer").kind(), ErrorKind::Mismatch);
    let mut full = Histogram::new(Kind::INTEGER);
    full.insert_units(7, u64::MAX).expect("it fits");
    assert_eq!(integers.merge(&full).expect_err("too many").kind(), ErrorKind::Overflow);
    assert_eq!(full.clone().insert_all_units(&[1]).expect_err("too many").kind(), ErrorKind::Overflow);
    assert_eq!(integers.downscale(-12).expect_err("too coarse").kind(), ErrorKind::Unsupported);
    assert_eq!((integers, doubles), before);
}
