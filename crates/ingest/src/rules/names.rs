//! Attribute names, looked up by their bytes.
//!
//! A lookup costs one multiplication and one comparison for most keys, so that a span no rule knows costs next to
//! nothing. Indexed families (`gen_ai.completion.N.finish_reason`) are asked for only where a key ends like one.

use super::NameRule;

/// A name, and what it tells.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    key: Vec<u8>,
    pub(crate) readings: Vec<NameRule>,
    /// The place in [`super::Rules::documents`] of the JSON that this attribute holds.
    pub(crate) document: Option<u8>,
}

/// A family of names that differ in one number.
#[derive(Clone, Debug)]
struct Family {
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    rule: NameRule,
}

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: Vec<Name>,
    table: Vec<u16>,
    families: Vec<Family>,
    /// One bit for each end that a family has, by [`end_bit`].
    family_ends: u64,
}

const TABLE_SIZE: usize = 4096;
const ABSENT: u16 = u16::MAX;
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The last eight bytes: attribute names differ at their ends.
#[inline]
fn tail(key: &[u8]) -> u64 {
    match key.last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

#[inline]
fn place(tail: u64, length: usize) -> usize {
    ((tail ^ (length as u64) << 56).wrapping_mul(MULTIPLIER) >> 52) as usize
}

#[inline]
fn end_bit(tail: u64) -> u64 {
    1 << (tail.wrapping_mul(MULTIPLIER) >> 58)
}

/// What a lookup found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known<'r> {
    /// The name itself.
    Name(&'r Name),
    /// A family, and the number in the name.
    Member(NameRule, u32),
}

impl Names {
    fn entry(&mut self, key: &str) -> &mut Name {
        let at = self.names.iter().position(|known| known.key == key.as_bytes()).unwrap_or_else(|| {
            self.names.push(Name { key: key.as_bytes().to_vec(), readings: Vec::new(), document: None });
            self.names.len() - 1
        });
        &mut self.names[at]
    }

    /// Adds a reading of a name, or of a family where one of the name's parts is `N`.
    pub(super) fn add(&mut self, name: &str, rule: NameRule) -> Result<(), String> {
        let Some((prefix, suffix)) = name.split_once(".N.") else {
            self.entry(name).readings.push(rule);
            return Ok(());
        };
        if suffix.len() < 7 || suffix.contains(".N") {
            return Err(format!("`{name}`: one part may be N, and seven letters or more must follow it"));
        }
        let (prefix, suffix) = (format!("{prefix}.").into_bytes(), format!(".{suffix}").into_bytes());
        self.family_ends |= end_bit(tail(&suffix));
        self.families.push(Family { prefix, suffix, rule });
        Ok(())
    }

    /// Says that an attribute holds a document.
    pub(super) fn add_document(&mut self, name: &str, document: u8) {
        self.entry(name).document.get_or_insert(document);
    }

    /// Ends the building.
    pub(super) fn finish(&mut self, ignored: &[String]) -> Result<(), String> {
        self.names.retain(|name| !ignored.iter().any(|ignored| ignored.as_bytes() == name.key));
        if self.names.len() > TABLE_SIZE / 2 {
            return Err(format!("{} names are more than the {} there can be", self.names.len(), TABLE_SIZE / 2));
        }
        self.table = vec![ABSENT; TABLE_SIZE];
        for (index, name) in self.names.iter().enumerate() {
            let mut at = place(tail(&name.key), name.key.len());
            while self.table[at] != ABSENT {
                at = (at + 1) % TABLE_SIZE;
            }
            self.table[at] = index as u16;
        }
        Ok(())
    }

    /// What an attribute's name tells, where any rule knows it.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<Known<'_>> {
        let tail = tail(key);
        let mut at = place(tail, key.len());
        loop {
            let index = self.table[at];
            if index == ABSENT {
                break;
            }
            let name = &self.names[usize::from(index)];
            if name.key == key {
                return Some(Known::Name(name));
            }
            at = (at + 1) % TABLE_SIZE;
        }
        if self.family_ends & end_bit(tail) == 0 { None } else { self.member(key) }
    }

    #[cold]
    fn member(&self, key: &[u8]) -> Option<Known<'_>> {
        self.families.iter().find_map(|family| {
            let number = key.strip_prefix(family.prefix.as_slice())?.strip_suffix(family.suffix.as_slice())?;
            let number = std::str::from_utf8(number).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            Some(Known::Member(family.rule, number?.parse().ok()?))
        })
    }

    /// Every name, for tests.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (&[u8], &Name)> {
        self.names.iter().map(|name| (name.key.as_slice(), name))
    }
}
