//! What a histogram answers: counts, totals, quantiles, ranks, buckets.

use crate::histogram::{Histogram, Place, place_of_f64, units_to_f64};
use crate::scale::{MAX_SCALE, lower_bound, midpoint, relative_error, upper_bound};
use crate::totals::{DecimalTotals, DoubleTotals, Totals};

/// A populated bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Every value is above this; among zeros and in negative buckets it may be this one too.
    pub lower: f64,
    /// No value is above this; in negative buckets every value is below it.
    pub upper: f64,
    /// How many values there are, never zero.
    pub count: u64,
}

impl Histogram {
    /// How many finite values it holds, weights counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them are zero, or as good as zero: see [`Self::zero_threshold`].
    pub fn zero_count(&self) -> u64 {
        self.zero_count
    }

    /// Up to this magnitude the producer of a foreign histogram counted values as zeros; 0 for our own. Other buckets may
    /// lie below it where they came from elsewhere.
    pub fn zero_threshold(&self) -> f64 {
        self.zero_threshold
    }

    /// How many NaN and infinities were offered. They are in no other number.
    pub fn non_finite_count(&self) -> u64 {
        self.non_finite_count
    }

    /// The scale: an octave has `2^scale` buckets. It is 6, or coarser where something coarser was merged.
    pub fn scale(&self) -> i32 {
        self.scale
    }

    /// How wrong a quantile can be, relative to a value at its rank: 0.55 % at scale 6, more at coarser ones and after a
    /// conversion from explicit bounds, infinite where such a bound was open.
    pub fn relative_error(&self) -> f64 {
        let own = relative_error(self.scale);
        self.conversion_error + own + self.conversion_error * own
    }

    /// The exact sum in units of the last decimal place. `None` for doubles, and beyond 128 bits.
    pub fn sum_units(&self) -> Option<i128> {
        self.decimal().and_then(|totals| totals.sum.to_i128())
    }

    /// The exact least value in units of the last decimal place. `None` for doubles, and without values.
    pub fn min_units(&self) -> Option<i128> {
        self.decimal().filter(|_| self.count > 0).map(|totals| totals.min)
    }

    /// The exact greatest value in units of the last decimal place. `None` for doubles, and without values.
    pub fn max_units(&self) -> Option<i128> {
        self.decimal().filter(|_| self.count > 0).map(|totals| totals.max)
    }

    /// The sum. Of doubles it is the exact sum, rounded once, and infinite only beyond the largest double; of decimals the
    /// exact sum, rounded for the unit and for the scale. 0 without values, `None` where a producer did not say.
    pub fn sum(&self) -> Option<f64> {
        match &self.totals {
            Totals::Decimal(totals) => Some(decimal_sum(totals)),
            Totals::Double(totals) => totals.sum_f64(),
        }
    }

    /// The least value. `None` without values, and where a producer did not say.
    pub fn min(&self) -> Option<f64> {
        self.extreme(|totals| totals.min, |totals| totals.min)
    }

    /// The greatest value. `None` without values, and where a producer did not say.
    pub fn max(&self) -> Option<f64> {
        self.extreme(|totals| totals.max, |totals| totals.max)
    }

    /// The sum divided by the count. `None` without values, and where the sum is unknown.
    pub fn mean(&self) -> Option<f64> {
        self.sum().filter(|_| self.count > 0).map(|sum| sum / self.count as f64)
    }

    /// The rank of a quantile, from 1: `ceil(q * count)`, computed in doubles. `None` without values, and where `q` is not
    /// from 0 to 1.
    pub fn quantile_rank(&self, q: f64) -> Option<u64> {
        if self.count == 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        // The conversion saturates, so a product rounded beyond the count is harmless.
        Some(((q * self.count as f64).ceil() as u64).clamp(1, self.count))
    }

    /// The value at the quantile's rank, at most [`Self::relative_error`] off: the middle of its bucket, within the least
    /// and the greatest value. The first and last rank give these exactly. Subnormal doubles lie further apart than the
    /// error; there the answer is off by at most half a step more. `None` as for [`Self::quantile_rank`].
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.quantile_rank(q).map(|rank| self.value_at(rank))
    }

    fn value_at(&self, rank: u64) -> f64 {
        let (min, max) = (self.min(), self.max());
        if let Some(min) = min.filter(|_| rank == 1) {
            return min;
        }
        if let Some(max) = max.filter(|_| rank == self.count) {
            return max;
        }
        let negatives = self.negative.total();
        let value = if rank <= negatives {
            // The least value has the greatest magnitude.
            self.negative.at_rank(negatives - rank + 1).map(|index| -midpoint(index, self.scale))
        } else if rank - negatives <= self.zero_count {
            Some(0.0)
        } else {
            self.positive.at_rank(rank - negatives - self.zero_count).map(|index| midpoint(index, self.scale))
        };
        let value = value.expect("the counts of all buckets add up to the count");
        value.max(min.unwrap_or(f64::NEG_INFINITY)).min(max.unwrap_or(f64::INFINITY))
    }

    /// How many values are not above `x`, estimated: exact at the bounds of buckets, at and beyond the least and greatest
    /// value; between them as if the values of a bucket were spread evenly by their logarithm. `None` for NaN.
    pub fn rank(&self, x: f64) -> Option<f64> {
        let not_above = self.not_above(x)?;
        Some(not_above.certain as f64 + not_above.share_of_rest)
    }

    /// The least and the most values that can be not above `x`. `None` for NaN.
    pub fn rank_bounds(&self, x: f64) -> Option<(u64, u64)> {
        self.not_above(x).map(|not_above| (not_above.certain, not_above.possible))
    }

    /// Which part of the values is not above `x`: [`Self::rank`] by the count. `None` without values and for NaN.
    pub fn fraction_below(&self, x: f64) -> Option<f64> {
        self.rank(x).filter(|_| self.count > 0).map(|rank| rank / self.count as f64)
    }

    /// How many buckets are populated, that of zeros included.
    pub fn bucket_count(&self) -> usize {
        self.negative.len() + usize::from(self.zero_count > 0) + self.positive.len()
    }

    /// All populated buckets, from the least values to the greatest.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.places().map(|(place, count)| {
            let (lower, upper) = match place {
                Place::Negative(index) => (-upper_bound(index, self.scale), -lower_bound(index, self.scale)),
                Place::Zero => (self.zero_lower(), self.zero_threshold),
                Place::Positive(index) => (lower_bound(index, self.scale), upper_bound(index, self.scale)),
            };
            Bucket { lower, upper, count }
        })
    }

    /// Populated buckets and zeros, ascending by value.
    pub(crate) fn places(&self) -> impl DoubleEndedIterator<Item = (Place, u64)> + '_ {
        let negative = self.negative.iter().rev().map(|(index, count)| (Place::Negative(index), count));
        let zero = (self.zero_count > 0).then_some((Place::Zero, self.zero_count));
        let positive = self.positive.iter().map(|(index, count)| (Place::Positive(index), count));
        negative.chain(zero).chain(positive)
    }

    /// Where `x` lies at this histogram's scale.
    fn coarse_place(&self, x: f64) -> Place {
        let shift = MAX_SCALE - self.scale;
        match place_of_f64(x) {
            Place::Negative(index) => Place::Negative(index >> shift),
            Place::Zero => Place::Zero,
            Place::Positive(index) => Place::Positive(index >> shift),
        }
    }

    /// Where the zeros of a foreign histogram start: without negative values at zero.
    fn zero_lower(&self) -> f64 {
        if self.negative.is_empty() { 0.0 } else { 0.0 - self.zero_threshold }
    }

    fn not_above(&self, x: f64) -> Option<NotAbove> {
        let exactly = |count: u64| Some(NotAbove { certain: count, possible: count, share_of_rest: 0.0 });
        if x.is_nan() {
            return None;
        }
        if self.count == 0 || self.min().is_some_and(|min| x < min) || x == f64::NEG_INFINITY {
            return exactly(0);
        }
        if self.max().is_some_and(|max| x >= max) || x == f64::INFINITY {
            return exactly(self.count);
        }
        let own_place = self.coarse_place(x);
        let mut sum = NotAbove { certain: 0, possible: 0, share_of_rest: 0.0 };
        for (place, count) in self.places() {
            match self.part_not_above(place, x, own_place) {
                Part::None => {}
                Part::All => {
                    sum.certain += count;
                    sum.possible += count;
                }
                Part::Some(share) => {
                    sum.possible += count;
                    sum.share_of_rest += share * count as f64;
                }
            }
        }
        Some(sum)
    }

    /// Which part of the values in a place is not above `x`, whose own place is given.
    fn part_not_above(&self, place: Place, x: f64, own_place: Place) -> Part {
        let all_if = |condition: bool| if condition { Part::All } else { Part::None };
        match (place, own_place) {
            (Place::Zero, _) => match self.zero_lower() {
                _ if x >= self.zero_threshold => Part::All,
                lower if x < lower => Part::None,
                lower => Part::Some((x - lower) / (self.zero_threshold - lower)),
            },
            (Place::Positive(index), Place::Positive(own)) if index == own => {
                if x == upper_bound(index, self.scale) {
                    Part::All
                } else {
                    Part::Some(self.share_of_bucket(own_place, x))
                }
            }
            (Place::Negative(index), Place::Negative(own)) if index == own => {
                Part::Some(self.share_of_bucket(own_place, x))
            }
            (Place::Positive(index), Place::Positive(own)) => all_if(index < own),
            (Place::Negative(index), Place::Negative(own)) => all_if(index > own),
            (Place::Negative(_), _) => Part::All,
            (Place::Positive(_), _) => Part::None,
        }
    }

    /// How far into its bucket `x` lies, by logarithm.
    fn share_of_bucket(&self, own_place: Place, x: f64) -> f64 {
        let (min, max) = (self.min().unwrap_or(f64::NEG_INFINITY), self.max().unwrap_or(f64::INFINITY));
        let share = |index: i32, least: f64, at: f64, greatest: f64| {
            let low = lower_bound(index, self.scale).max(least).max(f64::from_bits(1)).log2();
            let high = upper_bound(index, self.scale).min(greatest).log2();
            if high > low { ((at.log2() - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 }
        };
        match own_place {
            Place::Zero => 0.0,
            Place::Positive(index) => share(index, min, x, max),
            Place::Negative(index) => 1.0 - share(index, -max, -x, -min),
        }
    }

    fn decimal(&self) -> Option<&DecimalTotals> {
        match &self.totals {
            Totals::Decimal(totals) => Some(totals),
            Totals::Double(_) => None,
        }
    }

    fn extreme(
        &self,
        of_decimals: impl Fn(&DecimalTotals) -> i128,
        of_doubles: impl Fn(&DoubleTotals) -> Option<f64>,
    ) -> Option<f64> {
        match &self.totals {
            _ if self.count == 0 => None,
            Totals::Decimal(totals) => Some(units_to_f64(of_decimals(totals), totals.scale)),
            Totals::Double(totals) => of_doubles(totals),
        }
    }
}

fn decimal_sum(totals: &DecimalTotals) -> f64 {
    match totals.sum.to_i128() {
        Some(units) => units_to_f64(units, totals.scale),
        None => totals.sum.to_f64(0) / crate::histogram::POWERS_OF_TEN[usize::from(totals.scale)],
    }
}

/// How many values are not above a number.
struct NotAbove {
    certain: u64,
    possible: u64,
    /// Of those that are possible but not certain.
    share_of_rest: f64,
}

/// Which part of a bucket's values is not above a number.
enum Part {
    None,
    All,
    Some(f64),
}
