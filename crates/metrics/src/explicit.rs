//! Histograms with bounds that their producer chose.
//!
//! They keep their bounds and counts, and merge exactly with equal bounds only. A conversion puts every bucket's values
//! where they are least wrong and says how wrong that can be.

use crate::buckets::Buckets;
use crate::encode::{EXPLICIT_LAYOUT, double_flags, put_double_totals, take_double_totals};
use crate::error::{Error, ErrorKind, Result};
use crate::histogram::{Histogram, Place, place_of_f64};
use crate::totals::{DoubleTotals, Kind, Totals};
use crate::varint::{Reader, put_varint};

/// The numbers of an OTLP `HistogramDataPoint`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExplicitPoint {
    /// Strictly ascending upper bounds, which belong to their bucket.
    pub bounds: Vec<f64>,
    /// One more than bounds, the last without upper bound; or none at all where there are no bounds either.
    pub counts: Vec<u64>,
    /// The sum of all counts.
    pub count: u64,
    /// The sum of all values, where known.
    pub sum: Option<f64>,
    /// The least value, where known.
    pub min: Option<f64>,
    /// The greatest value, where known.
    pub max: Option<f64>,
}

/// A histogram with explicit bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplicitHistogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    count: u64,
    totals: DoubleTotals,
}

impl ExplicitHistogram {
    /// Takes in an OTLP histogram. A sum, minimum or maximum that is missing or not finite stays unknown.
    ///
    /// # Errors
    /// Where bounds do not ascend or are not finite, or counts, bounds and totals contradict each other.
    pub fn new(point: &ExplicitPoint) -> Result<Self> {
        // Adding zero turns -0 into 0.
        let bounds: Vec<f64> = point.bounds.iter().map(|bound| bound + 0.0).collect();
        if !(bounds.is_sorted_by(|left, right| left < right) && bounds.iter().all(|bound| bound.is_finite())) {
            return Err(Error::invalid("the bounds of a histogram are not finite or do not ascend"));
        }
        let counts = match point.counts.as_slice() {
            [] if bounds.is_empty() => vec![point.count],
            counts if counts.len() == bounds.len() + 1 => counts.to_vec(),
            counts => {
                let (counts, bounds) = (counts.len(), bounds.len());
                return Err(Error::invalid(format!("a histogram has {bounds} bounds but {counts} counts")));
            }
        };
        let count = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count)).ok_or_else(Error::too_many)?;
        if count != point.count {
            let claimed = point.count;
            return Err(Error::invalid(format!("a histogram claims {claimed} values but its buckets hold {count}")));
        }
        let totals = DoubleTotals::from_claims(count, point.sum, point.min, point.max)?;
        let histogram = Self { bounds, counts, count, totals };
        if histogram.populated().any(|(lower, upper, _)| lower > upper) {
            return Err(Error::invalid("a populated bucket of a histogram lies beyond its minimum or maximum"));
        }
        Ok(histogram)
    }

    /// The histogram as an OTLP one.
    pub fn to_point(&self) -> ExplicitPoint {
        let extreme = |extreme: Option<f64>| extreme.filter(|_| self.count > 0);
        ExplicitPoint {
            bounds: self.bounds.clone(),
            counts: self.counts.clone(),
            count: self.count,
            sum: self.totals.sum_f64(),
            min: extreme(self.totals.min),
            max: extreme(self.totals.max),
        }
    }

    /// The upper bounds, which belong to their bucket.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// The counts, one more than bounds.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds the values of the other.
    ///
    /// # Errors
    /// Where the bounds differ, or the count would not fit `u64`; nothing is changed then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.bounds != other.bounds {
            return Err(Error::new(
                ErrorKind::Mismatch,
                "histograms with different explicit bounds do not merge exactly",
            ));
        }
        self.count = self.count.checked_add(other.count).ok_or_else(Error::too_many)?;
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.totals.merge(&other.totals);
        Ok(())
    }

    /// An exponential histogram of [`Kind::Double`] and scale 6 with the same count and totals, each bucket's values placed
    /// where the greatest relative error is least: at the harmonic mean of its bounds, cut to minimum and maximum. The
    /// result's [`Histogram::relative_error`] says what that comes to; it is infinite where a populated bucket touches zero
    /// or is open, which known extremes prevent. Such a bucket's values are placed at its middle, or its only bound.
    pub fn to_histogram(&self) -> Histogram {
        let mut converted = Histogram::new(Kind::Double);
        let mut positive: Vec<(i32, u64)> = Vec::new();
        let mut negative: Vec<(i32, u64)> = Vec::new();
        for (lower, upper, count) in self.populated() {
            let (value, error) = least_wrong(lower, upper);
            converted.conversion_error = converted.conversion_error.max(error);
            // Negative places descend while their values ascend; both lists keep equal places side by side.
            let (entries, index) = match place_of_f64(value) {
                Place::Zero => {
                    converted.zero_count += count;
                    continue;
                }
                Place::Positive(index) => (&mut positive, index),
                Place::Negative(index) => (&mut negative, index),
            };
            match entries.last_mut() {
                Some(last) if last.0 == index => last.1 += count,
                _ => entries.push((index, count)),
            }
        }
        negative.reverse();
        converted.count = self.count;
        converted.positive = Buckets::from_sorted(positive);
        converted.negative = Buckets::from_sorted(negative);
        converted.totals = Totals::Double(Box::new(self.totals.clone()));
        converted
    }

    /// Bounds and count of every populated bucket, cut to minimum and maximum, infinite where open.
    fn populated(&self) -> impl Iterator<Item = (f64, f64, u64)> + '_ {
        let (min, max) = (self.totals.min.unwrap_or(f64::NEG_INFINITY), self.totals.max.unwrap_or(f64::INFINITY));
        let lowers = std::iter::once(f64::NEG_INFINITY).chain(self.bounds.iter().copied());
        let uppers = self.bounds.iter().copied().chain(std::iter::once(f64::INFINITY));
        let buckets = lowers.zip(uppers).zip(&self.counts).filter(|(_, count)| **count > 0);
        buckets.map(move |((lower, upper), &count)| (lower.max(min), upper.min(max), count))
    }

    /// The histogram as bytes: the byte 2, flags of the totals, how many bounds, the bounds, the counts, the totals; as in
    /// [`Histogram::encode`].
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + 10 * self.counts.len());
        bytes.extend([EXPLICIT_LAYOUT, double_flags(&self.totals, self.count)]);
        put_varint(&mut bytes, self.bounds.len() as u128);
        for bound in &self.bounds {
            bytes.extend(bound.to_le_bytes());
        }
        for &count in &self.counts {
            put_varint(&mut bytes, u128::from(count));
        }
        if self.count > 0 {
            put_double_totals(&mut bytes, &self.totals);
        }
        bytes
    }

    /// Reads an encoded histogram.
    ///
    /// # Errors
    /// For all bytes that [`Self::encode`] does not write, naming the place.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        let layout = reader.byte()?;
        reader.check(layout == EXPLICIT_LAYOUT, "its layout is not that of explicit bounds")?;
        let flags = reader.byte()?;
        let length = reader.u64()?;
        reader.check(length <= reader.remaining() as u64 / 9, "more bounds than bytes")?;
        let is_right = |bound: f64| bound.is_finite() && bound.to_bits() != (-0.0f64).to_bits();
        let bounds = (0..length).map(|_| reader.f64(is_right, "a bound is not finite or is -0"));
        let bounds = bounds.collect::<Result<Vec<f64>>>()?;
        reader.check(bounds.is_sorted_by(|left, right| left < right), "the bounds do not ascend")?;
        let counts = (0..=length).map(|_| reader.u64()).collect::<Result<Vec<u64>>>()?;
        let count = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        let count = count.ok_or_else(|| reader.corrupt("counts overflow"))?;
        let totals = if count == 0 { DoubleTotals::EMPTY } else { take_double_totals(reader, flags, count)? };
        reader.check(flags == double_flags(&totals, count), "unknown flags")?;
        let histogram = Self { bounds, counts, count, totals };
        let is_possible = histogram.populated().all(|(lower, upper, _)| lower <= upper);
        reader.check(is_possible, "a populated bucket lies beyond minimum or maximum")?;
        reader.finish()?;
        Ok(histogram)
    }
}

/// The value whose greatest relative error over these bounds is least, and that error.
fn least_wrong(lower: f64, upper: f64) -> (f64, f64) {
    if lower == upper {
        return (lower, 0.0);
    }
    match (lower, upper) {
        (f64::NEG_INFINITY, f64::INFINITY) => (0.0, f64::INFINITY),
        (f64::NEG_INFINITY, only) | (only, f64::INFINITY) => (only, f64::INFINITY),
        _ if lower <= 0.0 && upper >= 0.0 => (lower / 2.0 + upper / 2.0, f64::INFINITY),
        _ => {
            let (near, far) = if lower > 0.0 { (lower, upper) } else { (upper, lower) };
            let ratio = near / far;
            (near * (2.0 / (1.0 + ratio)), (1.0 - ratio) / (1.0 + ratio))
        }
    }
}
