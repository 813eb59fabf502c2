//! Which attributes and events are content, as data: `rules/messages.toml`.
//!
//! Most attributes are none. A bitmap over the first eight bytes of a name, one multiplication and one load, says so for
//! nearly all of them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Direction;

const BUILT_IN: &str = include_str!("../../rules/messages.toml");

/// How an attribute is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReadAs {
    Text,
    Messages,
    Parts,
    Calls,
    Definitions,
    Arguments,
    Result,
    Answer,
    Whole,
    Role,
    Content,
    Reasoning,
    Refusal,
    FinishReason,
    CallId,
    CallName,
    CallArguments,
    CallPartId,
    PartType,
    PartText,
    PartImage,
    Name,
    Description,
    Parameters,
    Schema,
}

/// One name that holds content.
#[derive(Clone, Debug)]
pub(super) struct NameRule {
    pub(super) direction: Direction,
    pub(super) read_as: ReadAs,
    pub(super) role: Option<String>,
    /// Read only beside one of these attributes; always where empty.
    pub(super) only_with: Vec<Vec<u8>>,
    /// Which names tell of the same message: those that are equal up to the first number.
    pub(super) family: u16,
}

/// An event that holds a message.
#[derive(Clone, Debug)]
pub(crate) struct EventRule {
    name: Vec<u8>,
    /// `None` where its attributes are those of a span.
    pub(super) direction: Option<Direction>,
    pub(super) role: Option<String>,
}

/// The attributes of an event that hold its message.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventAttributes {
    /// All of it.
    pub(super) body: Vec<String>,
    pub(super) content: Vec<String>,
    pub(super) calls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    attribute: Vec<FileAttributes>,
    event: Vec<FileEvent>,
    event_attributes: EventAttributes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAttributes {
    direction: Direction,
    read: Vec<FileName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileName {
    name: String,
    #[serde(rename = "as")]
    read_as: ReadAs,
    role: Option<String>,
    #[serde(default)]
    only_with: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEvent {
    name: String,
    direction: Option<Direction>,
    role: Option<String>,
}

/// All rules, ready for lookup.
#[derive(Debug)]
pub(crate) struct ContentRules {
    names: Vec<NameRule>,
    /// Names, each number in them written as `#`.
    table: hashbrown::HashMap<Box<[u8]>, u16, foldhash::fast::FixedState>,
    starts: [u64; STARTS / 64],
    events: Vec<EventRule>,
    pub(super) event_attributes: EventAttributes,
}

/// Bits of the map of beginnings.
const STARTS: usize = 4096;

/// Longest name a rule may have.
const NAME_BYTES_MAX: usize = 96;

/// The bit for the first eight bytes of a name.
#[inline]
fn start(key: &[u8]) -> usize {
    let head = match key.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => key.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    (head.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize
}

/// A name found: its rule, and the first two numbers in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(super) rule: u16,
    pub(super) numbers: [u32; 2],
}

impl ContentRules {
    /// The rules the product ships.
    ///
    /// # Panics
    /// Where the built-in file is broken; a test reads it.
    pub(crate) fn built_in() -> Self {
        Self::parse(BUILT_IN).unwrap_or_else(|error| panic!("the built-in content rules cannot be read: {error}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut rules = Self {
            names: Vec::new(),
            table: hashbrown::HashMap::default(),
            starts: [0; STARTS / 64],
            events: Vec::new(),
            event_attributes: file.event_attributes,
        };
        let mut families = BTreeMap::new();
        for attributes in file.attribute {
            for name in attributes.read {
                rules.add(attributes.direction, name, &mut families)?;
            }
        }
        for FileEvent { name, direction, role } in file.event {
            rules.events.push(EventRule { name: name.into_bytes(), direction, role });
        }
        Ok(rules)
    }

    fn add(
        &mut self,
        direction: Direction,
        name: FileName,
        families: &mut BTreeMap<String, u16>,
    ) -> Result<(), String> {
        let pattern: Vec<&str> = name.name.split('.').map(|word| if word == "N" { "#" } else { word }).collect();
        let pattern = pattern.join(".");
        let family = pattern.split('#').next().unwrap_or(&pattern).to_owned();
        let starts_early = family.len() >= 8 || family.len() == pattern.len();
        if pattern.len() > NAME_BYTES_MAX || !starts_early {
            return Err(format!("{} is too long, or has a number in its first eight bytes", name.name));
        }
        let next = families.len() as u16;
        let rule = NameRule {
            direction,
            read_as: name.read_as,
            role: name.role,
            only_with: name.only_with.into_iter().map(String::into_bytes).collect(),
            family: *families.entry(family).or_insert(next),
        };
        let bit = start(pattern.as_bytes());
        self.starts[bit / 64] |= 1 << (bit % 64);
        if self.table.insert(pattern.into_bytes().into(), self.names.len() as u16).is_some() {
            return Err(format!("{} stands twice", name.name));
        }
        self.names.push(rule);
        Ok(())
    }

    /// The rule of a name that holds content.
    #[inline]
    pub(crate) fn find(&self, key: &[u8]) -> Option<Hit> {
        let bit = start(key);
        if self.starts[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        self.look_up(key)
    }

    fn look_up(&self, key: &[u8]) -> Option<Hit> {
        let mut pattern = [0; NAME_BYTES_MAX];
        let (mut length, mut numbers, mut count) = (0, [0; 2], 0);
        for (index, word) in key.split(|&byte| byte == b'.').enumerate() {
            let number = if word.first().is_some_and(u8::is_ascii_digit) {
                std::str::from_utf8(word).ok().and_then(|word| word.parse::<u32>().ok())
            } else {
                None
            };
            let word = match number {
                Some(number) => {
                    *numbers.get_mut(count)? = number;
                    count += 1;
                    &b"#"[..]
                }
                None => word,
            };
            let dot = usize::from(index > 0);
            let room = pattern.get_mut(length..length + dot + word.len())?;
            room[..dot].fill(b'.');
            room[dot..].copy_from_slice(word);
            length += dot + word.len();
        }
        self.table.get(&pattern[..length]).map(|&rule| Hit { rule, numbers })
    }

    pub(super) fn rule(&self, hit: Hit) -> &NameRule {
        &self.names[usize::from(hit.rule)]
    }

    /// The rule of an event.
    pub(crate) fn event(&self, name: &[u8]) -> Option<&EventRule> {
        // All of them begin alike; most events do not.
        if !name.starts_with(b"gen_ai.") {
            return None;
        }
        self.events.iter().find(|rule| rule.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the built-in file is read. Guarantee: every name it lists is found with its numbers, and no neighbour of it.
    #[test]
    fn every_listed_name_is_found() {
        let rules = ContentRules::built_in();
        let file: File = toml::from_str(BUILT_IN).unwrap();
        for name in file.attribute.iter().flat_map(|attributes| &attributes.read) {
            let mut numbers = [7u32, 4_000_000_000].into_iter();
            let key: Vec<String> = name
                .name
                .split('.')
                .map(|word| if word == "N" { numbers.next().unwrap().to_string() } else { word.to_owned() })
                .collect();
            let hit = rules.find(key.join(".").as_bytes()).unwrap_or_else(|| panic!("{}", name.name));
            let numbered = name.name.matches(".N").count();
            assert_eq!(rules.rule(hit).read_as, name.read_as, "{}", name.name);
            assert_eq!(hit.numbers, [[0, 0], [7, 0], [7, 4_000_000_000]][numbered], "{}", name.name);
            assert!(rules.find(format!("{}x", key.join(".")).as_bytes()).is_none());
            assert!(rules.find(format!("{}.", key.join(".")).as_bytes()).is_none());
        }
        for key in [
            "",
            ".",
            "gen_ai.prompt.name",
            "gen_ai.prompt.1.2.3.role",
            "gen_ai.prompt.99999999999.role",
            "gen_ai.prompt..role",
        ] {
            assert!(rules.find(key.as_bytes()).is_none(), "{key}");
        }
        assert!(rules.find(format!("gen_ai.prompt.0.{}", "x".repeat(500)).as_bytes()).is_none());
    }

    /// Scenario: names of ordinary attributes. Guarantee: the first look dismisses most of them.
    #[test]
    fn ordinary_names_are_dismissed_at_once() {
        let rules = ContentRules::built_in();
        let ordinary = [
            "http.request.method",
            "url.full",
            "db.system.name",
            "server.address",
            "thread.id",
            "code.function",
            "gen_ai.request.model",
            "gen_ai.usage.input_tokens",
            "error.type",
            "net.peer.name",
            "user.id",
            "session.id",
        ];
        let looked_up = ordinary.iter().filter(|name| {
            let bit = start(name.as_bytes());
            rules.starts[bit / 64] >> (bit % 64) & 1 == 1
        });
        // "gen_ai.r" begins names of content too.
        assert!(looked_up.count() <= 2);
    }
}
