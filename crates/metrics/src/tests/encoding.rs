//! Whether what is written is read, and nothing else.

use proptest::prelude::*;

use super::{any_histogram, of_doubles, of_units};
use crate::{ErrorKind, ExplicitHistogram, ExplicitPoint, Histogram, Kind};

/// Uses everything a decoded histogram answers.
fn exercise(histogram: &Histogram) {
    for q in [0.0, 0.3, 0.5, 0.99, 1.0] {
        if let Some(value) = histogram.quantile(q) {
            assert!(value.is_finite());
            let (low, high) = histogram.rank_bounds(value).expect("a number");
            assert!(low <= high && high <= histogram.count());
        }
    }
    let _ = (histogram.mean(), histogram.rank(1.0), histogram.buckets().count(), histogram.memory_bytes());
    let mut twice = histogram.clone();
    assert!(
        twice.merge(histogram).is_ok()
            || histogram.count() > u64::MAX / 2
            || histogram.non_finite_count() > u64::MAX / 2
    );
    let _ = twice.to_native();
    let _ = twice.to_exponential();
}

/// What tampering does to bytes.
#[derive(Clone, Debug)]
enum Tamper {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize),
    Insert(usize, u8),
    Remove(usize),
}

fn tamper() -> impl Strategy<Value = Tamper> {
    let byte = || prop_oneof![any::<u8>(), Just(0), Just(0x7f), Just(0x80), Just(0xff)];
    prop_oneof![
        (any::<usize>(), 0u8..8).prop_map(|(at, bit)| Tamper::Flip(at, bit)),
        (any::<usize>(), byte()).prop_map(|(at, byte)| Tamper::Set(at, byte)),
        any::<usize>().prop_map(Tamper::Cut),
        (any::<usize>(), byte()).prop_map(|(at, byte)| Tamper::Insert(at, byte)),
        any::<usize>().prop_map(Tamper::Remove),
    ]
}

fn apply(bytes: &mut Vec<u8>, tamper: &Tamper) {
    let length = bytes.len().max(1);
    match *tamper {
        Tamper::Flip(at, bit) if !bytes.is_empty() => bytes[at % length] ^= 1 << bit,
        Tamper::Set(at, byte) if !bytes.is_empty() => bytes[at % length] = byte,
        Tamper::Remove(at) if !bytes.is_empty() => drop(bytes.remove(at % length)),
        Tamper::Cut(at) => bytes.truncate(at % length),
        Tamper::Insert(at, byte) => bytes.insert(at % length, byte),
        _ => {}
    }
}

/// Bytes are refused as corrupt, or they are what the histogram they stand for is written as.
fn check_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    match Histogram::decode(bytes) {
        Ok(histogram) => {
            prop_assert_eq!(histogram.encode(), bytes);
            exercise(&histogram);
        }
        Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error),
    }
    match ExplicitHistogram::decode(bytes) {
        Ok(histogram) => {
            prop_assert_eq!(histogram.encode(), bytes);
            exercise(&histogram.to_histogram());
        }
        Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error),
    }
    Ok(())
}

proptest! {
    /// Scenario: any histogram. Guarantee: it is read back as it was, and equal ones have equal bytes.
    #[test]
    fn what_is_written_is_read(histogram in any_histogram()) {
        let bytes = histogram.encode();
        let read = Histogram::decode(&bytes);
        prop_assert_eq!(read.as_ref(), Ok(&histogram));
        prop_assert_eq!(read.map(|read| read.encode()), Ok(bytes));
        exercise(&histogram);
    }

    /// Scenario: bytes of a histogram, tampered with. Guarantee: refused, or another valid histogram; never a panic.
    #[test]
    fn tampered_bytes_are_refused_or_valid(histogram in any_histogram(), tampers in proptest::collection::vec(tamper(), 1..4)) {
        let mut bytes = histogram.encode();
        tampers.iter().for_each(|tamper| apply(&mut bytes, tamper));
        check_bytes(&bytes)?;
    }

    /// Scenario: the same for explicit bounds.
    #[test]
    fn tampered_explicit_bytes_are_refused_or_valid(
        counts in proptest::collection::vec(0u64..200, 1..9),
        tampers in proptest::collection::vec(tamper(), 0..3),
    ) {
        let bounds: Vec<f64> = (1..counts.len()).map(|bound| bound as f64 - 3.0).collect();
        let count = counts.iter().sum();
        let sum = (count > 0).then_some(1.5);
        let point = ExplicitPoint { bounds, counts, count, sum, ..ExplicitPoint::default() };
        let mut bytes = ExplicitHistogram::new(&point).expect("valid").encode();
        check_bytes(&bytes)?;
        tampers.iter().for_each(|tamper| apply(&mut bytes, tamper));
        check_bytes(&bytes)?;
    }

    /// Scenario: noise behind a plausible start. Guarantee: as above.
    #[test]
    fn noise_is_refused_or_valid(layout in 1u8..3, noise in proptest::collection::vec(any::<u8>(), 0..60)) {
        check_bytes(&[&[layout], noise.as_slice()].concat())?;
    }
}

#[track_caller]
fn assert_refused(bytes: &[u8], why: &str) {
    let error = Histogram::decode(bytes).expect_err(why);
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(why), "{error} should say: {why}");
}

/// Scenario: each way in which bytes can lie. Guarantee: refused, naming what and where.
#[test]
fn each_lie_is_named() {
    // Integers 1, 1, 3: layout, flags, scale 6, decimal scale, no zeros, two buckets from index -1 with counts 2 and 1 and
    // 101 skipped between, sum 5 of one byte, minimum 1, maximum 3.
    let good = of_units(0, &[1, 1, 3]).encode();
    assert_eq!(good, [1, 0, 12, 0, 0, 2, 1, 3, 101, 0, 2, 0, 5, 2, 6]);
    let with = |at: usize, bytes: &[u8]| [&good[..at], bytes, &good[at + 1..]].concat();
    assert_refused(&[], "it ends too early at byte 0");
    assert_refused(&with(0, &[3]), "unknown layout 3");
    assert_refused(&with(0, &[2]), "must be converted");
    assert_refused(&with(1, &[2]), "flags of doubles");
    assert_refused(&[1, 0x80, 12, 0, 1, 0, 0, 0, 0, 0], "flagged buckets are empty");
    assert_refused(&with(2, &[14]), "no such scale");
    assert_refused(&with(2, &[23]), "no such scale");
    assert_refused(&with(3, &[39]), "too many decimal places");
    assert_refused(&with(4, &[0x80, 0]), "longer than it needs to be");
    assert_refused(&with(4, &[0xff; 30]), "too large");
    assert_refused(&with(4, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "counts overflow");
    assert_refused(&with(5, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "more buckets than bytes");
    assert_refused(&with(6, &[0xff, 0xff, 0xff, 0xff, 0x1f]), "beyond all doubles");
    assert_refused(&with(7, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "counts overflow");
    assert_refused(&with(8, &[0]), "no bucket is skipped");
    assert_refused(&with(9, &[1, 1]), "none follows");
    assert_refused(&[&good[..10], &[4, 0, 5, 0, 2, 6]].concat(), "a sum is longer than it needs to be");
    assert_refused(&with(10, &[100]), "too large");
    assert_refused(&with(11, &[40]), "too large");
    assert_refused(&with(12, &[2]), "the sum does not fit");
    assert_refused(&with(12, &[10]), "the sum does not fit");
    assert_refused(&with(13, &[8]), "the minimum is above the maximum");
    assert_refused(&with(13, &[0]), "the minimum is not in the first bucket");
    assert_refused(&with(14, &[8]), "the maximum is not in the last bucket");
    assert_refused(&good[..good.len() - 1], "it ends too early at byte 14");
    assert_refused(&[good.as_slice(), &[0]].concat(), "bytes follow the end at byte 15");
}

/// Scenario: doubles whose totals lie. Guarantee: refused.
#[test]
fn lies_about_doubles_are_named() {
    let good = of_doubles(&[1.0, 1.5]).encode();
    let last = good.len() - 8;
    let with_max = |max: f64| [&good[..last], &max.to_le_bytes()].concat();
    assert!(Histogram::decode(&with_max(1.51)).is_ok(), "foreign extremes are believed");
    assert_refused(&with_max(0.5), "the minimum is above the maximum");
    assert_refused(&with_max(f64::NAN), "not finite");
    assert_refused(&with_max(-0.0), "not finite or is -0");
    assert_refused(&[1, 1 | 2, 12, 0, 0], "totals of no values");
    assert_refused(&[1, 1 | 16, 12, 0, 0, 0], "a flagged count is zero");
    let huge = [&[1, 1 | 2, 12, 1, 0, 2, 0xff, 0x01][..], &[0xff; 1]].concat();
    assert!(Histogram::decode(&huge).is_ok(), "a sum within what one value can be is believed");
    let sum_of_270_bytes = [&[1, 1 | 2, 12, 1, 0, 2, 0x8d, 0x02][..], &[0xff; 1]].concat();
    assert_refused(&sum_of_270_bytes, "the sum does not fit the count");
}

/// Scenario: durations as they are. Guarantee: about a byte for each bucket and small change.
#[test]
fn encodings_are_compact() {
    let mut histogram = Histogram::new(Kind::INTEGER);
    for step in 0..50_000i128 {
        histogram.insert_units(200_000_000 + step * 40_000, 1).expect("few values");
    }
    let buckets = histogram.buckets().count();
    assert!(buckets > 200, "{buckets}");
    assert!(histogram.encode().len() < 2 * buckets + 40, "{} for {buckets}", histogram.encode().len());
    assert!(of_units(0, &[1_500_000_000]).encode().len() <= 24);
}
