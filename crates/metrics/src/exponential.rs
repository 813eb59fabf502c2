//! From and to OTLP exponential histograms, whose buckets are ours at any scale.

use crate::buckets::Buckets;
use crate::error::{Error, ErrorKind, Result};
use crate::histogram::Histogram;
use crate::scale::{MAX_SCALE, MIN_SCALE, index_of_f64, known_indexes, upper_bound};
use crate::totals::{DoubleTotals, Kind, Totals};

/// The numbers of an OTLP `ExponentialHistogramDataPoint`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExponentialPoint {
    /// An octave has `2^scale` buckets.
    pub scale: i32,
    /// The sum of all bucket counts and `zero_count`.
    pub count: u64,
    /// The sum of all values, where known.
    pub sum: Option<f64>,
    /// The least value, where known.
    pub min: Option<f64>,
    /// The greatest value, where known.
    pub max: Option<f64>,
    /// How many values are zeros, or up to `zero_threshold` from zero.
    pub zero_count: u64,
    /// Not negative.
    pub zero_threshold: f64,
    /// Buckets of positive values.
    pub positive: OffsetCounts,
    /// Buckets of negative values, by magnitude.
    pub negative: OffsetCounts,
}

/// A run of buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetCounts {
    /// The index of the first bucket: bucket `i` holds `base^i < x <= base^(i+1)`.
    pub offset: i32,
    /// The counts from there.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Takes in an OTLP exponential histogram as one of [`Kind::Double`]. A scale finer than 6 becomes 6, a coarser one
    /// stays. A sum, minimum or maximum that is missing or not finite stays unknown. Values in the bucket right beyond all
    /// doubles are infinities, and counted apart.
    ///
    /// # Errors
    /// Where the counts do not add up, a bucket lies beyond all doubles, the scale is below [`MIN_SCALE`], or totals
    /// contradict each other.
    pub fn from_exponential(point: &ExponentialPoint) -> Result<Self> {
        let foreign = Foreign {
            scale: point.scale,
            count: point.count,
            zero_count: point.zero_count,
            zero_threshold: point.zero_threshold,
            positive: point.positive.entries(),
            negative: point.negative.entries(),
            sum: point.sum,
            min: point.min,
            max: point.max,
        };
        foreign.into_histogram()
    }

    /// The histogram as an OTLP one. The runs of buckets hold zeros for empty ones; a far outlier makes them long, and
    /// [`Self::downscale`] short again. Sum, minimum and maximum become doubles. Where [`Self::zero_threshold`] is set,
    /// buckets below it are counted as zeros, and it grows to the end of a populated bucket it lies in.
    pub fn to_exponential(&self) -> ExponentialPoint {
        let folded = self.folded();
        ExponentialPoint {
            scale: self.scale,
            count: self.count,
            sum: self.sum(),
            min: self.min(),
            max: self.max(),
            zero_count: folded.zero_count,
            zero_threshold: folded.zero_threshold,
            positive: OffsetCounts::from_entries(&folded.positive),
            negative: OffsetCounts::from_entries(&folded.negative),
        }
    }

    /// With no bucket below the zero threshold, as other formats ask for.
    pub(crate) fn folded(&self) -> Folded {
        let mut folded = Folded {
            zero_count: self.zero_count,
            zero_threshold: self.zero_threshold,
            positive: self.positive.iter().collect(),
            negative: self.negative.iter().collect(),
        };
        if self.zero_threshold == 0.0 {
            return folded;
        }
        let mut first_kept = index_of_f64(self.zero_threshold) >> (MAX_SCALE - self.scale);
        if self.positive.get(first_kept) + self.negative.get(first_kept) > 0 {
            folded.zero_threshold = upper_bound(first_kept, self.scale);
            first_kept += 1;
        }
        for buckets in [&mut folded.positive, &mut folded.negative] {
            let below = buckets.partition_point(|&(index, _)| index < first_kept);
            folded.zero_count += buckets.drain(..below).map(|(_, count)| count).sum::<u64>();
        }
        folded
    }
}

/// What [`Histogram::folded`] gives: index and count of every populated bucket, ascending.
pub(crate) struct Folded {
    pub(crate) zero_count: u64,
    pub(crate) zero_threshold: f64,
    pub(crate) positive: Vec<(i32, u64)>,
    pub(crate) negative: Vec<(i32, u64)>,
}

/// An exponential histogram of another format, unchecked. Indexes ascend, and mean what they mean here.
pub(crate) struct Foreign<P, N> {
    pub(crate) scale: i32,
    pub(crate) count: u64,
    pub(crate) zero_count: u64,
    pub(crate) zero_threshold: f64,
    pub(crate) positive: P,
    pub(crate) negative: N,
    pub(crate) sum: Option<f64>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl<P: Iterator<Item = (i64, u64)>, N: Iterator<Item = (i64, u64)>> Foreign<P, N> {
    pub(crate) fn into_histogram(self) -> Result<Histogram> {
        if self.scale < MIN_SCALE {
            let message =
                format!("an exponential histogram has scale {}; the coarsest read is {MIN_SCALE}", self.scale);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if !(self.zero_threshold.is_finite() && self.zero_threshold >= 0.0) {
            let threshold = self.zero_threshold;
            return Err(Error::invalid(format!("an exponential histogram has the zero threshold {threshold}")));
        }
        let mut held = self.zero_count;
        let (positive, plus_infinities) = checked_buckets(self.positive, self.scale, &mut held)?;
        let (negative, minus_infinities) = checked_buckets(self.negative, self.scale, &mut held)?;
        if held != self.count {
            let claimed = self.count;
            return Err(Error::invalid(format!("an exponential histogram claims {claimed} values but holds {held}")));
        }
        let non_finite_count = plus_infinities + minus_infinities;
        let count = held - non_finite_count;
        let totals = DoubleTotals::from_claims(count, self.sum, self.min, self.max)?;
        Ok(Histogram {
            scale: self.scale.min(MAX_SCALE),
            count,
            zero_count: self.zero_count,
            non_finite_count,
            // Adding zero turns -0 into 0.
            zero_threshold: self.zero_threshold + 0.0,
            positive,
            negative,
            totals: Totals::Double(Box::new(totals)),
            ..Histogram::new(Kind::Double)
        })
    }
}

/// The populated buckets at no finer scale than ours, and how many infinities there are: producers count them in the bucket
/// right beyond all doubles. Adds all counts to those held.
fn checked_buckets(entries: impl Iterator<Item = (i64, u64)>, scale: i32, held: &mut u64) -> Result<(Buckets, u64)> {
    let shift = i64::from(scale).saturating_sub(i64::from(MAX_SCALE)).clamp(0, 63);
    let known = known_indexes(scale.min(MAX_SCALE));
    let mut checked: Vec<(i32, u64)> = Vec::new();
    let mut infinities = 0;
    for (foreign_index, count) in entries.filter(|&(_, count)| count > 0) {
        *held = held.checked_add(count).ok_or_else(Error::too_many)?;
        match i32::try_from(foreign_index >> shift) {
            Ok(index) if known.contains(&index) => match checked.last_mut() {
                Some(last) if last.0 == index => last.1 += count,
                _ => checked.push((index, count)),
            },
            Ok(index) if index == known.end() + 1 => infinities += count,
            _ => {
                let message = format!("bucket {foreign_index} of an exponential histogram lies beyond all doubles");
                return Err(Error::invalid(message));
            }
        }
    }
    Ok((Buckets::from_sorted(checked), infinities))
}

impl OffsetCounts {
    fn entries(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        (i64::from(self.offset)..).zip(self.counts.iter().copied())
    }

    fn from_entries(entries: &[(i32, u64)]) -> Self {
        let (Some(&(first, _)), Some(&(last, _))) = (entries.first(), entries.last()) else { return Self::default() };
        let mut counts = vec![0; (last - first + 1) as usize];
        for &(index, count) in entries {
            counts[(index - first) as usize] = count;
        }
        Self { offset: first, counts }
    }
}
