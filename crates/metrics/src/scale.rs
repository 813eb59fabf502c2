//! Which bucket a number falls into, and which numbers a bucket holds.
//!
//! At scale `s` the base is `2^(2^-s)`, and bucket `i` holds `base^i < x <= base^(i+1)`: the upper bound belongs to the
//! bucket, as OTLP has it. Every mapping here starts from scale 6, where an octave has 64 buckets; a coarser index is the
//! finer one shifted right.
//!
//! No logarithm is taken. A number is brought to 64 bits with the highest one set; its seven next bits say in which of 128
//! equal parts of the octave it lies. A part is narrower than every bucket, so it meets at most one bound, and one
//! comparison with that bound settles the rest. The bounds are irrational but for powers of two, so comparing with their
//! integer part is exact.

use std::ops::RangeInclusive;

/// The finest scale, and that of every histogram made here.
pub const MAX_SCALE: i32 = 6;

/// The coarsest scale: two buckets hold all positive doubles. Coarser ones would tell nothing more apart.
pub const MIN_SCALE: i32 = -11;

/// The bucket of the smallest positive double at scale 6.
pub(crate) const MIN_INDEX: i32 = -1074 * 64 - 1;

/// The bucket of the largest double at scale 6.
pub(crate) const MAX_INDEX: i32 = 1024 * 64 - 1;

/// `floor(2^(j/64) * 2^63)` for the 64 bounds of an octave, and a last entry that no number exceeds.
const BOUNDS: [u64; 65] = [
    0x8000000000000000,
    0x8164d1f3bc030773,
    0x82cd8698ac2ba1d7,
    0x843a28c3acde4046,
    0x85aac367cc487b14,
    0x871f61969e8d1010,
    0x88980e8092da8527,
    0x8a14d575496efd9a,
    0x8b95c1e3ea8bd6e6,
    0x8d1adf5b7e5ba9e5,
    0x8ea4398b45cd53c0,
    0x9031dc431466b1dc,
    0x91c3d373ab11c336,
    0x935a2b2f13e6e92b,
    0x94f4efa8fef70961,
    0x96942d3720185a00,
    0x9837f0518db8a96f,
    0x99e0459320b7fa64,
    0x9b8d39b9d54e5538,
    0x9d3ed9a72cffb750,
    0x9ef5326091a111ad,
    0xa0b0510fb9714fc2,
    0xa27043030c496818,
    0xa43515ae09e6809e,
    0xa5fed6a9b15138ea,
    0xa7cd93b4e9653569,
    0xa9a15ab4ea7c0ef8,
    0xab7a39b5a93ed337,
    0xad583eea42a14ac6,
    0xaf3b78ad690a4374,
    0xb123f581d2ac258f,
    0xb311c412a9112489,
    0xb504f333f9de6484,
    0xb6fd91e328d17791,
    0xb8fbaf4762fb9ee9,
    0xbaff5ab2133e45fb,
    0xbd08a39f580c36be,
    0xbf1799b67a731082,
    0xc12c4cca66709456,
    0xc346ccda24976407,
    0xc5672a115506dadd,
    0xc78d74c8abb9b15c,
    0xc9b9bd866e2f27a2,
    0xcbec14fef2727c5c,
    0xce248c151f8480e3,
    0xd06333daef2b2594,
    0xd2a81d91f12ae45a,
    0xd4f35aabcfedfa1f,
    0xd744fccad69d6af4,
    0xd99d15c278afd7b5,
    0xdbfbb797daf23755,
    0xde60f4825e0e9123,
    0xe0ccdeec2a94e111,
    0xe33f8972be8a5a51,
    0xe5b906e77c8348a8,
    0xe8396a503c4bdc68,
    0xeac0c6e7dd24392e,
    0xed4f301ed9942b84,
    0xefe4b99bdcdaf5cb,
    0xf281773c59ffb139,
    0xf5257d152486cc2c,
    0xf7d0df730ad13bb8,
    0xfa83b2db722a033a,
    0xfd3e0c0cf486c174,
    u64::MAX,
];

/// For each 128th of an octave the last bound at or below its start.
const STARTS: [u8; 128] = {
    let mut starts = [0; 128];
    let mut part = 0;
    while part < 128 {
        let start = (1 << 63) | ((part as u64) << 56);
        let mut bound = 0;
        while bound < 63 && BOUNDS[bound + 1] <= start {
            bound += 1;
        }
        starts[part] = bound as u8;
        part += 1;
    }
    starts
};

/// The bucket at scale 6 of `normal / 2^63 * 2^octave`, where the highest bit of `normal` is set.
#[inline]
fn index_of_normal(normal: u64, octave: i32) -> i32 {
    let start = usize::from(STARTS[(normal >> 56) as usize & 127]);
    let beyond = i32::from(normal > BOUNDS[start + 1]);
    // A power of two is the upper bound of the bucket before.
    let power_of_two = i32::from(normal == BOUNDS[0]);
    octave * 64 + start as i32 + beyond - power_of_two
}

/// The bucket at scale 6 of a positive finite double.
#[inline]
pub(crate) fn index_of_f64(value: f64) -> i32 {
    let bits = value.to_bits();
    debug_assert!(value > 0.0 && value.is_finite(), "only positive finite numbers have a bucket");
    let exponent = (bits >> 52) as i32;
    if exponent == 0 {
        return index_of_subnormal(bits);
    }
    index_of_normal((1 << 63) | (bits << 11), exponent - 1023)
}

#[cold]
fn index_of_subnormal(bits: u64) -> i32 {
    let zeros = bits.leading_zeros();
    index_of_normal(bits << zeros, 63 - zeros as i32 - 1074)
}

/// The bucket at scale 6 of a positive integer, exact beyond 53 bits too.
#[inline]
pub(crate) fn index_of_u64(value: u64) -> i32 {
    debug_assert!(value > 0, "zero has no bucket");
    let zeros = value.leading_zeros();
    index_of_normal(value << zeros, 63 - zeros as i32)
}

/// The buckets that hold any double.
pub(crate) fn known_indexes(scale: i32) -> RangeInclusive<i32> {
    let shift = MAX_SCALE - scale;
    MIN_INDEX >> shift..=MAX_INDEX >> shift
}

/// The lower bound of a bucket, which does not belong to it, as the nearest double; no less than zero, no more than the
/// largest double.
pub(crate) fn lower_bound(index: i32, scale: i32) -> f64 {
    let exponent_in_64ths = i64::from(index) << (MAX_SCALE - scale);
    let octave = exponent_in_64ths >> 6;
    if octave < -1080 {
        return 0.0;
    }
    if octave >= 1024 {
        return f64::MAX;
    }
    times_power_of_two(significand((exponent_in_64ths & 63) as usize), octave as i32)
}

/// The upper bound of a bucket, which belongs to it.
pub(crate) fn upper_bound(index: i32, scale: i32) -> f64 {
    lower_bound(index + 1, scale)
}

/// The double that is least wrong, relatively, for any number of the bucket: the harmonic mean of its bounds.
pub(crate) fn midpoint(index: i32, scale: i32) -> f64 {
    if scale < 0 {
        // Where the bucket reaches beyond the doubles, only the part within counts.
        let (lower, upper) = (lower_bound(index, scale).max(f64::from_bits(1)), upper_bound(index, scale));
        return lower * (2.0 / (1.0 + lower / upper));
    }
    let exponent_in_64ths = index << (MAX_SCALE - scale);
    let lower = significand((exponent_in_64ths & 63) as usize);
    times_power_of_two(lower * (2.0 / (1.0 + 1.0 / base(scale))), exponent_in_64ths >> 6)
}

/// The largest relative error of [`midpoint`] at this scale: `(base - 1) / (base + 1)`, 0.5416 % at scale 6.
pub(crate) fn relative_error(scale: i32) -> f64 {
    if scale < 0 {
        let base = times_power_of_two(1.0, (1 << -scale).min(1023));
        return (base - 1.0) / (base + 1.0);
    }
    (base(scale) - 1.0) / (base(scale) + 1.0)
}

/// The ratio of neighbouring bounds, for scales from 0 to 6.
fn base(scale: i32) -> f64 {
    match scale {
        0 => 2.0,
        _ => significand(64 >> scale),
    }
}

/// The double nearest to `2^(j/64)`.
fn significand(bound: usize) -> f64 {
    // Half up is half to even here: an irrational number is never half way.
    let rounded = (BOUNDS[bound] >> 11) + (BOUNDS[bound] >> 10 & 1);
    rounded as f64 / (1u64 << 52) as f64
}

/// `value * 2^exponent`, rounded once, for a value from 1 to `2^64`.
pub(crate) fn times_power_of_two(value: f64, exponent: i32) -> f64 {
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    match exponent {
        ..-2000 => 0.0,
        // The first step is exact; only the second can leave the normal numbers, and so round.
        -2000..-1022 => value * power(-1000) * power((exponent + 1000).max(-1022)),
        -1022..=1023 => value * power(exponent),
        _ => value * power(1023) * power((exponent - 1023).min(1023)),
    }
}
