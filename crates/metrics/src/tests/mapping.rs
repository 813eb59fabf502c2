//! Whether every number finds its bucket, by integers of any length.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{any_finite, subnormal};
use crate::buckets::Buckets;
use crate::scale::{
    MAX_INDEX, MAX_SCALE, MIN_INDEX, MIN_SCALE, index_of_f64, index_of_u64, known_indexes, lower_bound, midpoint,
    upper_bound,
};

/// The square of a natural number, lowest 32 bits first.
fn square(number: &[u32]) -> Vec<u32> {
    let mut product = vec![0u32; 2 * number.len()];
    for (left_place, &left) in number.iter().enumerate() {
        let mut carry = 0u64;
        for (right_place, &right) in number.iter().enumerate() {
            let slot = &mut product[left_place + right_place];
            let sum = u64::from(*slot) + u64::from(left) * u64::from(right) + carry;
            *slot = sum as u32;
            carry = sum >> 32;
        }
        product[left_place + number.len()] = carry as u32;
    }
    product
}

/// The bucket of `significand * 2^exponent` by definition: `2^i < x^64 <= 2^(i + 1)`.
fn defined_index(significand: u64, exponent: i32) -> i32 {
    let zeros = significand.trailing_zeros();
    let (odd, exponent) = (significand >> zeros, exponent + zeros as i32);
    if odd == 1 {
        return 64 * exponent - 1;
    }
    let mut power = vec![odd as u32, (odd >> 32) as u32];
    for _ in 0..6 {
        power = square(&power);
    }
    let top = power.iter().rposition(|&limb| limb != 0).expect("not zero");
    // An odd number beyond one is no power of two, so its bit length is its logarithm rounded up.
    let bits = 32 * top as i32 + 32 - power[top].leading_zeros() as i32;
    bits + 64 * exponent - 1
}

fn defined_index_of_f64(value: f64) -> i32 {
    let bits = value.to_bits();
    match (bits >> 52) as i32 {
        0 => defined_index(bits, -1074),
        exponent => defined_index(bits & ((1 << 52) - 1) | 1 << 52, exponent - 1075),
    }
}

/// Scenario: the doubles right at, below and above each bound of several octaves, the ends of the range, and the smallest
/// subnormal numbers. Guarantee: the bucket is the one of the definition.
#[test]
fn doubles_at_bounds_find_their_bucket() {
    for octave in [-1022, -1021, -60, -1, 0, 1, 29, 52, 63, 1022, 1023] {
        for bound in 0..64 {
            let bits = lower_bound(octave * 64 + bound, 6).to_bits();
            for bits in bits - 2..=bits + 2 {
                let value = f64::from_bits(bits);
                assert_eq!(index_of_f64(value), defined_index_of_f64(value), "{value:e}");
            }
        }
    }
    for bits in (1..3000).chain((1 << 52) - 5..(1 << 52) + 5) {
        let value = f64::from_bits(bits);
        assert_eq!(index_of_f64(value), defined_index_of_f64(value), "{value:e}");
    }
    assert_eq!(index_of_f64(f64::from_bits(1)), MIN_INDEX);
    assert_eq!(index_of_f64(f64::MAX), MAX_INDEX);
    assert_eq!((index_of_f64(1.0), index_of_f64(1.0 + f64::EPSILON), index_of_f64(2.0)), (-1, 0, 63));
}

/// Scenario: integers of 64 bits around each bound. Guarantee: as for doubles, though these cannot tell them apart.
#[test]
fn integers_at_bounds_find_their_bucket() {
    for octave in [52, 53, 60, 63] {
        for bound in 0..64 {
            let near = lower_bound(octave * 64 + bound, 6) as u64;
            for value in near.saturating_sub(1100)..=near.saturating_add(1100) {
                // Only next to the bound the bucket changes, and there it must change at the right place.
                if value % 137 == 0 || index_of_u64(value) != index_of_u64(value.saturating_add(1)) {
                    assert_eq!(index_of_u64(value), defined_index(value, 0), "{value}");
                    let next = value.saturating_add(1);
                    assert_eq!(index_of_u64(next), defined_index(next, 0), "{next}");
                }
            }
        }
    }
    assert_eq!((index_of_u64(1), index_of_u64(2), index_of_u64(3), index_of_u64(u64::MAX)), (-1, 63, 101, 4095));
}

proptest! {
    /// Scenario: any positive number. Guarantee: its bucket is the one of the definition.
    #[test]
    fn any_number_finds_its_bucket(double in any_finite(), subnormal in subnormal(), integer in 1u64.., shift in 0u32..64) {
        let integer = (integer >> shift).max(1);
        prop_assert_eq!(index_of_u64(integer), defined_index(integer, 0));
        prop_assert_eq!(index_of_f64(subnormal), defined_index_of_f64(subnormal));
        prop_assume!(double != 0.0);
        prop_assert_eq!(index_of_f64(double.abs()), defined_index_of_f64(double.abs()));
    }

    /// Scenario: any bucket of any scale. Guarantee: bounds are in order, the middle lies between them, and neighbours share
    /// their bound.
    #[test]
    fn bounds_enclose_the_middle(index in MIN_INDEX..=MAX_INDEX, scale in MIN_SCALE..=MAX_SCALE) {
        let index = index >> (MAX_SCALE - scale);
        prop_assert!(known_indexes(scale).contains(&index));
        let (lower, upper) = (lower_bound(index, scale), upper_bound(index, scale));
        let middle = midpoint(index, scale);
        prop_assert!(lower <= middle && middle <= upper, "{} {} {}", lower, middle, upper);
        prop_assert!(middle.is_finite() && (lower < upper || upper < 1e-300));
    }

    /// Scenario: counts added in any order to close and far buckets, halves merged. Guarantee: a map would hold the same,
    /// whether there is a list or a window inside.
    #[test]
    fn buckets_count_as_a_map_does(
        entries in proptest::collection::vec(
            (prop_oneof![30 => -40i32..300, 5 => 5000i32..5100, 1 => MIN_INDEX..=MAX_INDEX], 1u64..9), 0..300),
        split in 0usize..300,
        shift in 0i32..18,
    ) {
        let (left, right) = entries.split_at(split.min(entries.len()));
        let mut model = BTreeMap::new();
        let mut parts = [Buckets::EMPTY, Buckets::EMPTY];
        for (part, entries) in parts.iter_mut().zip([left, right]) {
            for &(index, count) in entries {
                part.add(index, count);
                *model.entry(index).or_insert(0u64) += count;
            }
        }
        let [mut merged, right] = parts;
        merged.merge(&right);
        prop_assert_eq!(merged.len(), model.len());
        prop_assert!(merged.iter().eq(model.iter().map(|(&index, &count)| (index, count))));
        prop_assert!(merged.iter().rev().eq(model.iter().rev().map(|(&index, &count)| (index, count))));
        prop_assert!(model.iter().all(|(&index, &count)| merged.get(index) == count));
        prop_assert_eq!(merged.get(1000), 0);

        let mut coarser = BTreeMap::new();
        for (index, count) in model {
            *coarser.entry(index >> shift).or_insert(0) += count;
        }
        prop_assert!(merged.downscaled(shift).iter().eq(coarser));
    }
}

/// Scenario: a thousand neighbouring buckets, then one far away. Guarantee: memory stays near what is populated.
#[test]
fn far_outliers_do_not_cost_memory() {
    let mut buckets = Buckets::EMPTY;
    for index in (0..1000).rev() {
        buckets.add(index, 1);
    }
    assert!(matches!(buckets, Buckets::Window { .. }), "a thousand neighbours are a window");
    assert!(buckets.heap_bytes() < 20_000, "{}", buckets.heap_bytes());
    buckets.add(MAX_INDEX, 1);
    buckets.add(MIN_INDEX, 1);
    assert!(buckets.heap_bytes() < 40_000, "{}", buckets.heap_bytes());
    assert_eq!((buckets.len(), buckets.get(MIN_INDEX), buckets.get(999)), (1002, 1, 1));
}
