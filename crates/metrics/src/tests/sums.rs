//! Whether sums are exact.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{any_finite, of_doubles, of_units};
use crate::totals::DoubleSum;
use crate::wide::Wide;
use crate::{Histogram, Kind};

/// Scenario: terms that floating point loses. Guarantee: the exact sum, rounded once.
#[test]
fn nothing_is_lost_to_cancellation() {
    for (values, sum) in [
        (vec![1e300, 1.0, -1e300], 1.0),
        (vec![f64::MAX, f64::MAX, -f64::MAX], f64::MAX),
        (vec![f64::from_bits(1), f64::MAX, -f64::MAX], f64::from_bits(1)),
        (vec![0.1; 10], 1.0),
        (vec![-0.0, 0.0], 0.0),
        (vec![9007199254740992.0, 1.0, 1e-300], 9007199254740994.0),
        (vec![9007199254740992.0, 1.0], 9007199254740992.0),
        (vec![-1.5, 0.25], -1.25),
        (vec![f64::MAX, f64::MAX], f64::INFINITY),
    ] {
        assert_eq!(of_doubles(&values).sum().map(f64::to_bits), Some(sum.to_bits()), "{values:?}");
    }
}

/// Scenario: the largest values with the largest weights. Guarantee: no sum wraps around; integers beyond 128 bits are only
/// told as doubles.
#[test]
fn the_largest_sums_fit() {
    let mut doubles = Histogram::new(Kind::Double);
    doubles.insert(-f64::MAX, u64::MAX - 1).expect("it fits");
    assert_eq!(doubles.sum(), Some(f64::NEG_INFINITY));
    doubles.insert(f64::MAX, 1).expect("it fits");
    assert!(doubles.insert(1.0, 1).is_err());

    let mut integers = Histogram::new(Kind::INTEGER);
    integers.insert_units(i128::MIN, u64::MAX).expect("it fits");
    assert_eq!((integers.sum_units(), integers.min_units()), (None, Some(i128::MIN)));
    assert_eq!(integers.sum(), Some(-(2f64.powi(191))));
    assert_eq!(Histogram::decode(&integers.encode()), Ok(integers));

    assert_eq!(of_units(0, &[i128::MAX]).sum_units(), Some(i128::MAX));
    assert_eq!(of_units(0, &[i128::MIN]).sum_units(), Some(i128::MIN));
    assert_eq!(of_units(0, &[i128::MAX, 1]).sum_units(), None);
    assert_eq!(of_units(12, &[1, -3]).sum(), Some(-2e-12));
}

proptest! {
    /// Scenario: doubles of at most 40 binary places, which integers of 128 bits can sum. Guarantee: the same sum.
    #[test]
    fn sums_of_doubles_are_exact(terms in vec((any::<i64>(), 1u64..1 << 20), 1..60)) {
        let mut histogram = Histogram::new(Kind::Double);
        let mut exact = 0i128;
        for &(term, weight) in &terms {
            let term = term >> 11;
            histogram.insert(term as f64 / 2f64.powi(40), weight).expect("few values");
            exact += i128::from(term) * i128::from(weight);
        }
        prop_assert_eq!(histogram.sum(), Some(exact as f64 / 2f64.powi(40)));
    }

    /// Scenario: any double, and its negative. Guarantee: it is its own sum, and both together nothing.
    #[test]
    fn one_double_is_its_own_sum(value in any_finite(), weight in 1u64..) {
        prop_assert_eq!(of_doubles(&[value]).sum(), Some(value));
        let mut sum = DoubleSum::ZERO;
        sum.add_f64(value, weight);
        prop_assert!(value == 0.0 || sum != Wide::ZERO);
        sum.add_f64(-value, weight);
        prop_assert_eq!(sum, Wide::ZERO);
    }

    /// Scenario: integers with weights. Guarantee: their exact sum, where it fits, however it is reached.
    #[test]
    fn sums_of_integers_are_exact(terms in vec((any::<i64>(), 0u64..1 << 50), 1..60)) {
        let mut histogram = Histogram::new(Kind::INTEGER);
        let mut exact = 0i128;
        for &(term, weight) in &terms {
            histogram.insert_units(i128::from(term), weight).expect("the count fits");
            exact += i128::from(term) * i128::from(weight);
        }
        prop_assert_eq!(histogram.sum_units(), Some(exact));
        prop_assert_eq!(histogram.sum(), Some(exact as f64));
    }

    /// Scenario: any integer as double. Guarantee: rounded as the language rounds it.
    #[test]
    fn wide_integers_round_to_the_nearest_double(value in any::<i128>(), shift in 0u32..127) {
        let mut wide = Wide::<4>::ZERO;
        wide.add_shifted((value >> shift).unsigned_abs(), 0, value < 0);
        prop_assert_eq!(wide.to_f64(0), (value >> shift) as f64);
        prop_assert_eq!(wide.to_i128(), Some(value >> shift));
    }
}
