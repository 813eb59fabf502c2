//! Integers wide enough to never overflow, for sums that do not depend on the order of their terms.

use crate::scale::times_power_of_two;

/// A signed integer of `64 * N` bits in two's complement, lowest limb first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wide<const N: usize>([u64; N]);

impl<const N: usize> Wide<N> {
    pub(crate) const ZERO: Self = Self([0; N]);

    /// How many bytes a magnitude takes at most.
    pub(crate) const BYTES: usize = 8 * N;

    /// Adds `±magnitude * 2^shift`, where three limbs lie from the shift on.
    #[inline]
    pub(crate) fn add_shifted(&mut self, magnitude: u128, shift: u32, negative: bool) {
        let bits = shift % 64;
        let low = magnitude << bits;
        let high = ((magnitude >> 64) as u64 >> 1) >> (63 - bits);
        let [first, second, third, rest @ ..] = &mut self.0[(shift / 64) as usize..] else {
            unreachable!("a shift of {shift} leaves no three limbs of {N}")
        };
        // Subtracting is adding the complement and one.
        let flip = if negative { u64::MAX } else { 0 };
        let mut carry = negative;
        (*first, carry) = first.carrying_add(low as u64 ^ flip, carry);
        (*second, carry) = second.carrying_add((low >> 64) as u64 ^ flip, carry);
        (*third, carry) = third.carrying_add(high ^ flip, carry);
        for limb in rest {
            if carry == negative {
                return;
            }
            (*limb, carry) = limb.carrying_add(flip, carry);
        }
    }

    /// Adds `±magnitude * weight * 2^shift`.
    #[inline]
    pub(crate) fn add_product(&mut self, magnitude: u128, weight: u64, shift: u32, negative: bool) {
        let (high, low) = ((magnitude >> 64) as u64, magnitude as u64);
        self.add_shifted(u128::from(low) * u128::from(weight), shift, negative);
        if high != 0 {
            self.add_shifted(u128::from(high) * u128::from(weight), shift + 64, negative);
        }
    }

    /// Adds a number that fits 128 bits, without a branch.
    #[inline]
    pub(crate) fn add_i128(&mut self, term: i128) {
        let extension = (term >> 127) as u64;
        let mut carry = false;
        for (place, limb) in self.0.iter_mut().enumerate() {
            let part = match place {
                0 => term as u64,
                1 => (term >> 64) as u64,
                _ => extension,
            };
            (*limb, carry) = limb.carrying_add(part, carry);
        }
    }

    /// Adds a finite double, whose unit is `2^-1074`, as often as the weight says.
    #[inline]
    pub(crate) fn add_f64(&mut self, value: f64, weight: u64) {
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        let (significand, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        self.add_product(u128::from(significand), weight, shift, bits >> 63 == 1);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, &part) in self.0.iter_mut().zip(&other.0) {
            (*limb, carry) = limb.carrying_add(part, carry);
        }
    }

    pub(crate) fn negated(mut self) -> Self {
        let mut carry = true;
        for limb in &mut self.0 {
            (*limb, carry) = (!*limb).carrying_add(0, carry);
        }
        self
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.0[N - 1] >> 63 == 1
    }

    /// Whether it is negative, and its absolute value, lowest byte first.
    pub(crate) fn to_magnitude(self) -> (bool, Vec<u8>) {
        let absolute = if self.is_negative() { self.negated() } else { self };
        (self.is_negative(), absolute.0.iter().flat_map(|limb| limb.to_le_bytes()).collect())
    }

    /// From the bytes of an absolute value, `None` where it does not fit.
    pub(crate) fn from_magnitude(negative: bool, start: usize, bytes: &[u8]) -> Option<Self> {
        let mut sum = Self::ZERO;
        for (place, &byte) in (start..).zip(bytes) {
            *sum.0.get_mut(place / 8)? |= u64::from(byte) << (8 * (place % 8));
        }
        if sum.is_negative() {
            return None;
        }
        Some(if negative { sum.negated() } else { sum })
    }

    /// How many bits the absolute value takes.
    pub(crate) fn bit_length(&self) -> u32 {
        let absolute = if self.is_negative() { self.negated() } else { *self };
        let top = absolute.0.iter().rposition(|&limb| limb != 0);
        top.map_or(0, |top| 64 * top as u32 + 64 - absolute.0[top].leading_zeros())
    }

    /// The double nearest to the number times `2^exponent`; infinite beyond the largest.
    pub(crate) fn to_f64(self, exponent: i32) -> f64 {
        let absolute = if self.is_negative() { self.negated() } else { self };
        let length = self.bit_length();
        let shift = length.saturating_sub(64);
        let (limb, bits) = ((shift / 64) as usize, shift % 64);
        let mut top = absolute.0[limb] >> bits;
        if bits > 0 && limb + 1 < N {
            top |= absolute.0[limb + 1] << (64 - bits);
        }
        // What is cut off only says whether the rest is exactly half a unit: its lowest kept bit can say it too.
        let rest = absolute.0[..limb].iter().any(|&limb| limb != 0) || absolute.0[limb] & ((1 << bits) - 1) != 0;
        let value = times_power_of_two((top | u64::from(rest)) as f64, shift as i32 + exponent);
        if self.is_negative() { -value } else { value }
    }

    /// The number, where it fits.
    pub(crate) fn to_i128(self) -> Option<i128> {
        let low = u128::from(self.0[0]) | u128::from(self.0[1]) << 64;
        let sign = if self.is_negative() { u64::MAX } else { 0 };
        let fits = self.0[2..].iter().all(|&limb| limb == sign) && (low >> 127 == 1) == self.is_negative();
        fits.then_some(low as i128)
    }
}
