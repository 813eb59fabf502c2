//! The histogram: insert, merge, downscale.

use crate::buckets::Buckets;
use crate::error::{Error, ErrorKind, Result};
use crate::scale::{MAX_SCALE, MIN_SCALE, index_of_f64, index_of_u64};
use crate::totals::{DECIMAL_SCALE_MAX, Kind, Totals};

/// Powers of ten as doubles, exact up to `10^22` and the nearest beyond.
pub(crate) const POWERS_OF_TEN: [f64; 39] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31, 1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38,
];

/// How many values lie in which bucket, and exactly how many there are, their sum, least and greatest.
///
/// Two histograms are equal where they came from the same values, whatever the order and grouping of inserts and merges.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub(crate) scale: i32,
    /// Finite values: those in buckets and zeros.
    pub(crate) count: u64,
    pub(crate) zero_count: u64,
    /// NaN and infinities, which are in no other number here.
    pub(crate) non_finite_count: u64,
    /// Up to this magnitude a foreign histogram counted values as zeros.
    pub(crate) zero_threshold: f64,
    /// How wrong, relatively, the conversion from explicit bounds was at worst.
    pub(crate) conversion_error: f64,
    pub(crate) positive: Buckets,
    /// By magnitude.
    pub(crate) negative: Buckets,
    pub(crate) totals: Totals,
}

/// The bucket of a number, ascending as the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Negative(i32),
    Zero,
    Positive(i32),
}

impl Histogram {
    /// A histogram without values, at scale 6.
    ///
    /// # Panics
    /// Where the scale of [`Kind::Decimal`] is beyond [`DECIMAL_SCALE_MAX`].
    pub fn new(kind: Kind) -> Self {
        if let Kind::Decimal { scale } = kind {
            assert!(scale <= DECIMAL_SCALE_MAX, "decimals have at most 38 places, not {scale}");
        }
        Self {
            scale: MAX_SCALE,
            count: 0,
            zero_count: 0,
            non_finite_count: 0,
            zero_threshold: 0.0,
            conversion_error: 0.0,
            positive: Buckets::EMPTY,
            negative: Buckets::EMPTY,
            totals: Totals::new(kind),
        }
    }

    /// Adds a double as often as the weight says, into a histogram of [`Kind::Double`]. NaN and infinities are counted
    /// apart ([`Self::non_finite_count`]) and touch nothing else; -0 is 0.
    ///
    /// # Errors
    /// Where the kind is another, or the count would not fit `u64`; nothing is changed then.
    #[inline]
    pub fn insert(&mut self, value: f64, weight: u64) -> Result<()> {
        let Totals::Double(totals) = &mut self.totals else { return Err(wrong_kind(self.kind(), Kind::Double)) };
        if !value.is_finite() {
            self.non_finite_count = self.non_finite_count.checked_add(weight).ok_or_else(Error::too_many)?;
            return Ok(());
        }
        let count = self.count.checked_add(weight).ok_or_else(Error::too_many)?;
        if weight == 0 {
            return Ok(());
        }
        self.count = count;
        let value = value + 0.0;
        totals.add(value, weight);
        self.add_at(place_of_f64(value), weight);
        Ok(())
    }

    /// Adds an integer, in units of the decimal's last place, as often as the weight says, into a histogram of
    /// [`Kind::Decimal`]. Integers of scale 0 and at most 64 bits find their bucket exactly; others by the nearest double.
    ///
    /// # Errors
    /// Where the kind is another, or the count would not fit `u64`; nothing is changed then.
    #[inline]
    pub fn insert_units(&mut self, units: i128, weight: u64) -> Result<()> {
        let Totals::Decimal(totals) = &mut self.totals else { return Err(wrong_kind(self.kind(), Kind::INTEGER)) };
        let count = self.count.checked_add(weight).ok_or_else(Error::too_many)?;
        if weight == 0 {
            return Ok(());
        }
        self.count = count;
        totals.add(units, weight);
        let place = place_of_units(units, totals.scale);
        self.add_at(place, weight);
        Ok(())
    }

    /// Adds each integer once, as [`Self::insert_units`] would: the fast way for many.
    ///
    /// # Errors
    /// As for [`Self::insert_units`], before anything is changed.
    pub fn insert_all_units(&mut self, all_units: &[i64]) -> Result<()> {
        let Totals::Decimal(totals) = &mut self.totals else { return Err(wrong_kind(self.kind(), Kind::INTEGER)) };
        let (Some(&first), count) = (all_units.first(), all_units.len() as u64) else { return Ok(()) };
        self.count = self.count.checked_add(count).ok_or_else(Error::too_many)?;
        let decimal_scale = totals.scale;
        let (mut sum, mut min, mut max) = (0i128, first, first);
        for &units in all_units {
            // Fewer than 2^63 terms of 64 bits fit 128.
            sum += i128::from(units);
            min = min.min(units);
            max = max.max(units);
        }
        totals.sum.add_i128(sum);
        totals.min = totals.min.min(i128::from(min));
        totals.max = totals.max.max(i128::from(max));
        if min < 0 {
            all_units.iter().for_each(|&units| self.add_at(place_of_units(i128::from(units), decimal_scale), 1));
            return Ok(());
        }
        let (shift, power) = (MAX_SCALE - self.scale, POWERS_OF_TEN[usize::from(decimal_scale)]);
        let exact = |units: &i64| index_of_u64(*units as u64) >> shift;
        let nearest = |units: &i64| index_of_f64(*units as f64 / power) >> shift;
        let positive = || all_units.iter().filter(|units| **units > 0);
        match (min > 0, decimal_scale == 0) {
            (true, true) => self.positive.add_each(all_units.iter().map(exact)),
            (true, false) => self.positive.add_each(all_units.iter().map(nearest)),
            (false, true) => self.positive.add_each(positive().map(exact)),
            (false, false) => self.positive.add_each(positive().map(nearest)),
        }
        if min == 0 {
            self.zero_count += count - positive().count() as u64;
        }
        Ok(())
    }

    /// Adds each double once, as [`Self::insert`] would: the fast way for many.
    ///
    /// # Errors
    /// As for [`Self::insert`], before anything is changed.
    pub fn insert_all(&mut self, values: &[f64]) -> Result<()> {
        let Totals::Double(totals) = &mut self.totals else { return Err(wrong_kind(self.kind(), Kind::Double)) };
        // Either count might take them all.
        let most = self.count.max(self.non_finite_count);
        most.checked_add(values.len() as u64).ok_or_else(Error::too_many)?;
        let shift = MAX_SCALE - self.scale;
        for &value in values {
            if !value.is_finite() {
                self.non_finite_count += 1;
                continue;
            }
            self.count += 1;
            totals.add(value + 0.0, 1);
            match place_of_f64(value) {
                Place::Positive(index) => self.positive.add(index >> shift, 1),
                Place::Zero => self.zero_count += 1,
                Place::Negative(index) => self.negative.add(index >> shift, 1),
            }
        }
        Ok(())
    }

    /// Adds the counts of a bucket at scale 6.
    #[inline]
    fn add_at(&mut self, place: Place, weight: u64) {
        let shift = MAX_SCALE - self.scale;
        match place {
            Place::Positive(index) => self.positive.add(index >> shift, weight),
            Place::Zero => self.zero_count += weight,
            Place::Negative(index) => self.negative.add(index >> shift, weight),
        }
    }

    /// Adds the values of the other. The result has the coarser of both scales, the wider zero bucket, and an unknown sum,
    /// minimum or maximum where either has.
    ///
    /// # Errors
    /// Where the kinds differ, or the count would not fit `u64`; nothing is changed then.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.totals.check_same_kind(&other.totals)?;
        let sum = |ours: u64, theirs: u64| ours.checked_add(theirs).ok_or_else(Error::too_many);
        let non_finite_count = sum(self.non_finite_count, other.non_finite_count)?;
        self.count = sum(self.count, other.count)?;
        self.non_finite_count = non_finite_count;
        self.zero_count += other.zero_count;
        self.zero_threshold = self.zero_threshold.max(other.zero_threshold);
        self.conversion_error = self.conversion_error.max(other.conversion_error);
        self.coarsen(other.scale);
        if other.scale == self.scale {
            self.positive.merge(&other.positive);
            self.negative.merge(&other.negative);
        } else {
            let shift = other.scale - self.scale;
            self.positive.merge(&other.positive.downscaled(shift));
            self.negative.merge(&other.negative.downscaled(shift));
        }
        self.totals.merge(&other.totals);
        Ok(())
    }

    /// Goes to a coarser scale; a finer one changes nothing. Each step halves the number of buckets to an octave.
    ///
    /// # Errors
    /// Where the scale is below [`MIN_SCALE`].
    pub fn downscale(&mut self, scale: i32) -> Result<()> {
        if scale < MIN_SCALE {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("scale {scale} is coarser than the coarsest, {MIN_SCALE}"),
            ));
        }
        self.coarsen(scale);
        Ok(())
    }

    fn coarsen(&mut self, scale: i32) {
        if scale < self.scale {
            let shift = self.scale - scale;
            self.positive = self.positive.downscaled(shift);
            self.negative = self.negative.downscaled(shift);
            self.scale = scale;
        }
    }

    /// What sort of numbers it holds.
    pub fn kind(&self) -> Kind {
        self.totals.kind()
    }

    /// Bytes of memory it takes, itself included.
    pub fn memory_bytes(&self) -> usize {
        let totals = match &self.totals {
            Totals::Decimal(_) => 0,
            Totals::Double(totals) => size_of_val(&**totals),
        };
        size_of::<Self>() + self.positive.heap_bytes() + self.negative.heap_bytes() + totals
    }
}

/// The bucket of a finite double at scale 6.
#[inline]
pub(crate) fn place_of_f64(value: f64) -> Place {
    if value > 0.0 {
        Place::Positive(index_of_f64(value))
    } else if value == 0.0 {
        Place::Zero
    } else {
        Place::Negative(index_of_f64(-value))
    }
}

/// The bucket of `units * 10^-decimal_scale` at scale 6. It never falls while the units grow.
#[inline]
pub(crate) fn place_of_units(units: i128, decimal_scale: u8) -> Place {
    if decimal_scale > 0 {
        return place_of_f64(units_to_f64(units, decimal_scale));
    }
    let index = || match u64::try_from(units.unsigned_abs()) {
        Ok(magnitude) => index_of_u64(magnitude),
        Err(_) => index_of_f64(units.unsigned_abs() as f64),
    };
    match units {
        0 => Place::Zero,
        1.. => Place::Positive(index()),
        _ => Place::Negative(index()),
    }
}

/// `units * 10^-decimal_scale`; the nearest double for up to 53 bits and 22 places.
#[inline]
pub(crate) fn units_to_f64(units: i128, decimal_scale: u8) -> f64 {
    // The short way is much faster than the conversion of 128 bits, and rounds the same.
    let units = i64::try_from(units).map_or_else(|_| units as f64, |units| units as f64);
    units / POWERS_OF_TEN[usize::from(decimal_scale)]
}

#[cold]
fn wrong_kind(ours: Kind, given: Kind) -> Error {
    let given = if given == Kind::Double { "doubles" } else { "integers or decimals" };
    Error::new(ErrorKind::Mismatch, format!("a histogram of {ours} takes no {given}"))
}
