//! What was said: prompts, answers, tool calls and tool definitions, out of attributes, span events and log records.
//!
//! Content leaves the attributes of its span or record and becomes rows of `message_parts`, one a part. What stands where is
//! data (`rules/messages.toml`). What no rule names, or holds in a form that is not understood, stays where it was, so that
//! nothing is lost.
//!
//! ```text
//! attributes ──► rules.rs: which of them are content ──► attributes.rs: messages ─┐
//! events, log records ──► event.rs: messages ─────────────────────────────────────┴─► rows.rs: parts, contents by hash
//!                               message.rs: messages out of JSON
//! ```

mod attributes;
mod event;
mod message;
mod rows;
mod rules;

pub(crate) use attributes::Collector;
pub(crate) use event::EventFields;
pub(crate) use rows::{ContentKey, ContentMemory, ContentRows, Speaker};
pub(crate) use rules::{ContentRules, Hit};

/// Content on its way to its rows.
pub(crate) struct Content<'w> {
    pub(crate) rules: &'w ContentRules,
    pub(crate) rows: ContentRows<'w>,
}

/// In `held`, marks an attribute that is content.
pub(crate) const CONTENT: u8 = u8::MAX;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    System,
    Input,
    Output,
    ToolDefinition,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Input => "input",
            Self::Output => "output",
            Self::ToolDefinition => "tool_definition",
        }
    }

    /// Instructions stand among the prompts of most producers; their role tells them apart.
    fn with_role(self, role: Option<&str>) -> Self {
        match (self, role) {
            (Self::Input, Some("system" | "developer")) => Self::System,
            _ => self,
        }
    }
}

/// Who told a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Attribute,
    Event,
    Log,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Attribute => "attribute",
            Self::Event => "event",
            Self::Log => "log",
        }
    }
}

/// A message and where it belongs.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    direction: Direction,
    /// Its place among the messages of its direction, where the source tells one.
    position: Option<i64>,
    message: message::Message<'a>,
}
