//! A histogram in both shapes that Prometheus has: few fixed bounds, and base-2 exponential buckets.

use spanlake_metrics::{Histogram, Kind};

use crate::scrape::page::HistogramValue;

/// The scale of exponential buckets at first: 8 to an octave, each 9 % wide, as is customary with Prometheus.
const SCALE: i32 = 3;

/// Beyond so many buckets the scale becomes coarser by one. As integers of 64 bits have 63 octaves, it never falls below 1.
const BUCKETS_MAX: usize = 160;

/// What a histogram counts in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    /// Values and bounds are integers in units of this decimal place.
    pub(crate) decimal_places: u8,
    /// Fixed bounds, ascending; each belongs to the bucket below it.
    pub(crate) bounds: &'static [i64],
}

/// How values were distributed.
#[derive(Clone, Debug)]
pub(crate) struct Distribution {
    measure: Measure,
    /// How many values are above the bound before and not above this one; the last are above all bounds.
    counts: Vec<u64>,
    /// The exponential buckets, with count and sum.
    histogram: Histogram,
}

impl Distribution {
    /// Without values yet.
    pub(crate) fn new(measure: Measure) -> Self {
        let mut histogram = Histogram::new(Kind::Decimal { scale: measure.decimal_places });
        histogram.downscale(SCALE).expect("invariant: the scale is one there is");
        Self { measure, counts: vec![0; measure.bounds.len() + 1], histogram }
    }

    /// Adds values, none of them below zero.
    pub(crate) fn add_all(&mut self, all_units: &[i64]) {
        self.histogram.insert_all_units(all_units).expect("invariant: fewer than 2^64 calls");
        while self.histogram.bucket_count() > BUCKETS_MAX {
            self.histogram.downscale(self.histogram.scale() - 1).expect("invariant: 64 bits have few octaves");
        }
        for units in all_units {
            self.counts[self.measure.bounds.partition_point(|bound| bound < units)] += 1;
        }
    }

    /// The sum of all values. It never falls.
    pub(crate) fn sum(&self) -> f64 {
        self.histogram.sum().expect("invariant: the sum of inserted values is known")
    }

    /// As it is now.
    pub(crate) fn value(&self) -> HistogramValue {
        let power = 10f64.powi(i32::from(self.measure.decimal_places));
        let bounds = self.measure.bounds.iter().map(|units| *units as f64 / power);
        HistogramValue {
            buckets: bounds.zip(running(&self.counts)).collect(),
            count: self.histogram.count(),
            sum: self.sum(),
            exponential: Some(self.histogram.clone()),
        }
    }

    /// Bytes of memory it takes, itself included.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Histogram>()
            + self.counts.capacity() * size_of::<u64>()
            + self.histogram.memory_bytes()
    }
}

/// Of each count the sum of it and all before.
pub(crate) fn running(counts: &[u64]) -> impl Iterator<Item = u64> + '_ {
    counts.iter().scan(0, |below, count| {
        *below += count;
        Some(*below)
    })
}
