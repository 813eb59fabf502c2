//! The encodings of integers: the hybrid of run lengths and bit packing, delta packing, plain varints.
//!
//! Source: <https://parquet.apache.org/docs/file-format/data-pages/encodings/>.

/// Bits needed for numbers up to `max`.
pub(super) fn width_of(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

pub(super) fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn write_zigzag(out: &mut Vec<u8>, number: i64) {
    write_varint(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Packs numbers of `width` bits each, least significant bit first.
fn pack(out: &mut Vec<u8>, numbers: impl Iterator<Item = u64>, width: u32) {
    let (mut pending, mut bits) = (0_u128, 0);
    for number in numbers {
        pending |= u128::from(number) << bits;
        bits += width;
        if bits >= 64 {
            out.extend_from_slice(&(pending as u64).to_le_bytes());
            pending >>= 64;
            bits -= 64;
        }
    }
    let left = bits.div_ceil(8) as usize;
    out.extend_from_slice(&pending.to_le_bytes()[..left]);
}

/// Runs shorter than this are packed.
const RUN_MIN: usize = 8;

/// A number of a level or an index into a dictionary.
pub(super) trait Small: Copy + PartialEq {
    fn number(self) -> u32;
}

impl Small for u8 {
    fn number(self) -> u32 {
        u32::from(self)
    }
}

impl Small for u32 {
    fn number(self) -> u32 {
        self
    }
}

/// Writes a run of one number.
pub(super) fn write_run(out: &mut Vec<u8>, number: u32, count: usize, width: u32) {
    write_varint(out, (count as u64) << 1);
    out.extend_from_slice(&number.to_le_bytes()[..width.div_ceil(8) as usize]);
}

/// Writes numbers below `1 << width`: runs of equal ones as such, the others packed in groups of eight.
pub(super) fn write_hybrid<T: Small>(out: &mut Vec<u8>, numbers: &[T], width: u32) {
    let (mut packed_from, mut at) = (0, 0);
    while at < numbers.len() {
        let number = numbers[at];
        let run = numbers[at..].iter().take_while(|other| **other == number).count();
        // Packed groups are whole: a run first fills the group before it.
        let fill = (at - packed_from).next_multiple_of(8) - (at - packed_from);
        if run >= fill + RUN_MIN {
            write_packed(out, &numbers[packed_from..at + fill], width);
            write_run(out, number.number(), run - fill, width);
            packed_from = at + run;
        }
        at += run;
    }
    write_packed(out, &numbers[packed_from..], width);
}

fn write_packed<T: Small>(out: &mut Vec<u8>, numbers: &[T], width: u32) {
    if numbers.is_empty() {
        return;
    }
    let groups = numbers.len().div_ceil(8);
    write_varint(out, (groups as u64) << 1 | 1);
    let end = out.len() + groups * width as usize;
    pack(out, numbers.iter().map(|number| u64::from(number.number())), width);
    out.resize(end, 0);
}

/// Writes bits as packed groups of numbers one bit wide.
pub(super) fn write_bitmap(out: &mut Vec<u8>, bitmap: &[u8], bits: usize) {
    let groups = bits.div_ceil(8);
    write_varint(out, (groups as u64) << 1 | 1);
    out.extend_from_slice(&bitmap[..groups]);
}

const BLOCK: usize = 128;
const MINI_BLOCKS: usize = 4;
const MINI_BLOCK: usize = BLOCK / MINI_BLOCKS;

/// DELTA_BINARY_PACKED.
pub(super) fn write_deltas(out: &mut Vec<u8>, numbers: &[i64]) {
    write_varint(out, BLOCK as u64);
    write_varint(out, MINI_BLOCKS as u64);
    write_varint(out, numbers.len() as u64);
    let Some((&first, _)) = numbers.split_first() else { return write_zigzag(out, 0) };
    write_zigzag(out, first);
    let mut deltas = [0_i64; BLOCK];
    let mut from = 0;
    while from + 1 < numbers.len() {
        let count = (numbers.len() - 1 - from).min(BLOCK);
        for (delta, pair) in deltas.iter_mut().zip(numbers[from..=from + count].windows(2)) {
            *delta = pair[1].wrapping_sub(pair[0]);
        }
        write_block(out, &mut deltas, count);
        from += count;
    }
}

fn write_block(out: &mut Vec<u8>, deltas: &mut [i64; BLOCK], count: usize) {
    let least = deltas[..count].iter().copied().min().unwrap_or(0);
    write_zigzag(out, least);
    // What lies behind the end is packed as nothing.
    deltas[count..].fill(least);
    let widths_at = out.len();
    out.extend_from_slice(&[0; MINI_BLOCKS]);
    for (index, mini) in deltas.chunks_exact(MINI_BLOCK).enumerate().take(count.div_ceil(MINI_BLOCK)) {
        let above = |delta: &i64| delta.wrapping_sub(least) as u64;
        let used = mini.iter().map(above).fold(0, |used, number| used | number);
        let width = u64::BITS - used.leading_zeros();
        out[widths_at + index] = width as u8;
        if width > 0 {
            pack(out, mini.iter().map(above), width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(bytes: &[u8], at: usize, width: u32) -> u32 {
        (0..width as usize).fold(0, |number, bit| {
            let place = at * width as usize + bit;
            number | u32::from(bytes[place / 8] >> (place % 8) & 1) << bit
        })
    }

    fn read_hybrid(mut bytes: &[u8], count: usize, width: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        while !bytes.is_empty() {
            let (mut header, mut shift) = (0_u64, 0);
            loop {
                let byte = bytes[0];
                bytes = &bytes[1..];
                header |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            let length = (header >> 1) as usize;
            if header & 1 == 1 {
                numbers.extend((0..length * 8).map(|at| unpack(bytes, at, width)));
                bytes = &bytes[length * width as usize..];
            } else {
                let bytes_wide = width.div_ceil(8) as usize;
                let number = bytes[..bytes_wide].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
                numbers.extend(std::iter::repeat_n(number, length));
                bytes = &bytes[bytes_wide..];
            }
        }
        numbers.truncate(count);
        numbers
    }

    proptest::proptest! {
        #[test]
        fn hybrids_come_back(runs in proptest::collection::vec((0_u32..1 << 17, 1_usize..40), 0..40), width in 17_u32..24) {
            let numbers: Vec<u32> = runs.iter().flat_map(|(number, count)| vec![*number; *count]).collect();
            let mut bytes = Vec::new();
            write_hybrid(&mut bytes, &numbers, width);
            proptest::prop_assert_eq!(read_hybrid(&bytes, numbers.len(), width), numbers);
        }

        #[test]
        fn levels_come_back(levels in proptest::collection::vec(0_u8..4, 0..200)) {
            let mut bytes = Vec::new();
            write_hybrid(&mut bytes, &levels, 2);
            let expected: Vec<u32> = levels.iter().map(|level| u32::from(*level)).collect();
            proptest::prop_assert_eq!(read_hybrid(&bytes, levels.len(), 2), expected);
        }
    }

    #[test]
    fn widths_hold_their_numbers() {
        assert_eq!([0, 1, 2, 3, 4, 255, 256, u32::MAX].map(width_of), [0, 1, 2, 2, 3, 8, 9, 32]);
    }
}
