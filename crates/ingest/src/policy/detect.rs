//! What a mask finds in text.

use std::ops::Range;

use regex::bytes::Regex;

/// Finds what is to be masked.
#[derive(Debug)]
pub(super) enum Finder {
    Pattern(Regex),
    /// What the pattern finds, unless it is part of a longer word or number.
    Apart(Regex),
    Card,
}

/// The detectors there are.
pub(super) const NAMES: [&str; 4] = ["email", "phone", "card", "api_key"];

/// Also as URLs and JSON escape it.
const EMAIL: &str = r"[\p{L}\p{N}._%+\-]+(?:@|%40|\\u0040)[\p{L}\p{N}](?:[\p{L}\p{N}\-]*[\p{L}\p{N}])?(?:\.[\p{L}\p{N}](?:[\p{L}\p{N}\-]*[\p{L}\p{N}])?)+";

/// International numbers, and those of North America with separators. Digits alone could be anything.
const PHONE: &str = r"(?:\+|\b00)[1-9][0-9]{0,2}[ .\-/]?(?:\(0?[0-9]{0,4}\)[ .\-/]?)?[0-9](?:[ .\-/]?[0-9]){5,12}|(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.\- ])[2-9][0-9]{2}[.\- ][0-9]{4}";

/// Keys and tokens by the shapes that their issuers give them.
const API_KEY: &str = concat!(
    // A word may end in `sk`; in JSON a key may follow an escape.
    r"(?:\b|\\[nrt])sk-(?:ant-|proj-|svcacct-|admin-|or-v1-|lf-)?[A-Za-z0-9_\-]{16,}",
    r"|(?:pk-lf-|xai-|pplx-|gsk_|r8_|hf_|tgp_v1_|npm_|shpat_)[A-Za-z0-9\-]{16,}|dapi[0-9a-f]{32}",
    r"|lsv2_[ps][tk]_[A-Za-z0-9_]{16,}|nvapi-[A-Za-z0-9_\-]{16,}",
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"|AIza[A-Za-z0-9_\-]{35}",
    r"|ya29\.[A-Za-z0-9_\-]{20,}",
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_\-]{16,}",
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}",
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}",
    r"|eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*",
    r"|(?i:bearer) +[A-Za-z0-9._~+/\-]{16,}=*",
);

impl Finder {
    /// A detector by its name.
    pub(super) fn detector(name: &str) -> Option<Self> {
        let compiled = |pattern: &str| {
            Regex::new(pattern).unwrap_or_else(|error| unreachable!("invariant: built-in patterns are right: {error}"))
        };
        Some(match name {
            "email" => Self::Pattern(compiled(EMAIL)),
            "phone" => Self::Apart(compiled(PHONE)),
            "card" => Self::Card,
            "api_key" => Self::Pattern(compiled(API_KEY)),
            _ => return None,
        })
    }

    /// The first find at or after `from`.
    fn find(&self, text: &[u8], from: usize) -> Option<Range<usize>> {
        match self {
            Self::Pattern(pattern) => pattern.find_at(text, from).map(|found| found.range()),
            Self::Apart(pattern) => {
                let mut from = from;
                loop {
                    let found = pattern.find_at(text, from)?.range();
                    let word = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
                    let before = found.start.checked_sub(1).and_then(|at| text.get(at));
                    if !word(before) && !word(text.get(found.end)) {
                        return Some(found);
                    }
                    from = found.start + 1;
                }
            }
            Self::Card => (from..text.len()).find_map(|start| Some(start..card_end(text, start)?)),
        }
    }

    /// The text with all finds replaced; `None` where there are none.
    pub(super) fn replace(&self, text: &[u8], with: &[u8]) -> Option<Vec<u8>> {
        let mut found = self.find(text, 0)?;
        let mut out = Vec::with_capacity(text.len());
        let mut copied = 0;
        loop {
            out.extend_from_slice(&text[copied..found.start]);
            out.extend_from_slice(with);
            copied = found.end;
            // Something that is found without being there would be found for ever.
            let next = if found.is_empty() { found.end + 1 } else { found.end };
            match if next <= text.len() { self.find(text, next) } else { None } {
                Some(next) => found = next,
                None => break,
            }
        }
        out.extend_from_slice(&text[copied..]);
        Some(out)
    }
}

/// Digits of the longest card number.
const CARD_DIGITS_MAX: usize = 19;

/// Where a card number that starts here ends: 13 to 19 digits, a space or a hyphen between any of them, in a range that
/// some issuer has, with a right check digit.
fn card_end(text: &[u8], start: usize) -> Option<usize> {
    if !text[start].is_ascii_digit() || start > 0 && text[start - 1].is_ascii_digit() {
        return None;
    }
    let (mut digits, mut ends, mut count) = ([0u8; CARD_DIGITS_MAX], [0usize; CARD_DIGITS_MAX], 0);
    let mut at = start;
    while count < CARD_DIGITS_MAX
        && let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit())
    {
        (digits[count], ends[count]) = (digit - b'0', at + 1);
        (count, at) = (count + 1, at + 1);
        if matches!(text.get(at), Some(b' ' | b'-')) {
            at += 1;
        }
    }
    (13..=count).rev().find_map(|length| {
        let end = ends[length - 1];
        let whole = !text.get(end).is_some_and(u8::is_ascii_digit);
        (whole && is_issued(&digits[..length]) && has_luhn_check(&digits[..length])).then_some(end)
    })
}

fn is_issued(digits: &[u8]) -> bool {
    let prefix = |count: usize| digits[..count].iter().fold(0u32, |number, digit| number * 10 + u32::from(*digit));
    match digits.len() {
        13 | 19 if prefix(1) == 4 => true,
        14 => matches!(prefix(2), 36 | 38 | 39) || matches!(prefix(3), 300..=305),
        15 => matches!(prefix(2), 34 | 37),
        16 => {
            prefix(1) == 4
                || matches!(prefix(2), 51..=55 | 62 | 65)
                || matches!(prefix(3), 644..=649)
                || matches!(prefix(4), 2221..=2720 | 3528..=3589 | 6011)
        }
        17..=19 => prefix(2) == 62,
        _ => false,
    }
}

fn has_luhn_check(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, u32::from(*digit) * 2) {
            (0, _) => u32::from(*digit),
            (_, doubled) if doubled > 9 => doubled - 9,
            (_, doubled) => doubled,
        })
        .sum();
    sum.is_multiple_of(10)
}
