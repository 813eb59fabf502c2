//! Messages out of attributes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::message::{self, Message, Part};
use super::rules::{ContentRules, Hit, NameRule, ReadAs};
use super::{CONTENT, Direction, Told};
use crate::json::{Json, Object, parse_tree};
use crate::value::{Attribute, Value, ValueWriter};
use crate::wire::Reader;

/// Attributes of one span or record that are read as content at most; more stay attributes.
const FOUND_MAX: usize = 20_000;

/// Finds content among attributes and makes messages of it.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    found: Vec<(u32, Hit)>,
    writer: ValueWriter,
    symbols: Vec<u8>,
    /// How many strings were not UTF-8 and were repaired.
    pub(crate) repaired: u64,
    /// Whether messages of the last span begin like JSON and are none.
    pub(crate) broken_json: bool,
}

/// The pieces that tell of one message.
#[derive(Debug, Default)]
struct Draft<'a> {
    attributes: Vec<usize>,
    /// What the role is where nothing tells it.
    default_role: Option<&'a str>,
    role: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    call_id: Option<Cow<'a, str>>,
    finish_reason: Option<Cow<'a, str>>,
    reasoning: Option<Cow<'a, str>>,
    refusal: Option<Cow<'a, str>>,
    content: Option<Cow<'a, str>>,
    parts: BTreeMap<u32, DraftPart<'a>>,
    calls: BTreeMap<u32, Part<'a>>,
    tool: Tool<'a>,
}

#[derive(Debug, Default)]
struct DraftPart<'a> {
    kind: Option<Cow<'a, str>>,
    text: Option<Cow<'a, str>>,
    image: Option<Cow<'a, str>>,
}

/// The pieces of a tool definition.
#[derive(Debug, Default)]
struct Tool<'a> {
    description: Option<Cow<'a, str>>,
    parameters: Option<Cow<'a, str>>,
    schema: Option<Cow<'a, str>>,
}

/// Which message a piece belongs to.
type Place = (Direction, u16, u32);

impl Collector {
    /// Looks for content. Costs next to nothing where there is none.
    #[inline]
    pub(crate) fn find(&mut self, rules: &ContentRules, attributes: &[Attribute<'_>]) -> bool {
        self.found.clear();
        for (index, attribute) in attributes.iter().enumerate() {
            if let Some(hit) = rules.find(attribute.key) {
                self.take(index, hit);
            }
        }
        self.has_found()
    }

    /// Forgets what was found and not read.
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.found.clear();
    }

    /// Takes an attribute that holds content: its place, and the rule of its name.
    pub(crate) fn take(&mut self, index: usize, hit: Hit) {
        if self.found.len() < FOUND_MAX {
            self.found.push((index as u32, hit));
        }
    }

    /// Whether there is content to read.
    #[inline]
    pub(crate) fn has_found(&self) -> bool {
        !self.found.is_empty()
    }

    /// The messages in the content that was found. Marks in `held` the attributes that they hold whole; the others stay.
    pub(crate) fn messages<'r: 'a, 'a>(
        &mut self,
        rules: &'r ContentRules,
        reader: &Reader<'a>,
        attributes: &[Attribute<'a>],
        held: &mut [u8],
    ) -> Vec<Told<'a>> {
        let mut told = Vec::new();
        let mut drafts: BTreeMap<Place, Draft<'a>> = BTreeMap::new();
        // Those that are read last: they yield to the others.
        let mut wholes = Vec::new();
        for (index, hit) in std::mem::take(&mut self.found) {
            let (index, rule) = (index as usize, rules.rule(hit));
            let attribute = attributes[index];
            let accompanied = || attributes.iter().any(|other| rule.only_with.iter().any(|key| key == other.key));
            if held[index] != 0 || !rule.only_with.is_empty() && !accompanied() {
                continue;
            }
            let Some(text) = self.text(reader, attribute.value, rule.read_as) else { continue };
            if is_piece(rule.read_as) {
                let draft = drafts.entry((rule.direction, rule.family, hit.numbers[0])).or_default();
                draft.attributes.push(index);
                draft.default_role = draft.default_role.or(rule.role.as_deref());
                draft.add(rule.read_as, hit.numbers[1], text);
                continue;
            }
            held[index] = CONTENT;
            if rule.read_as == ReadAs::Whole {
                wholes.push((rule, text));
            } else {
                let bytes = text.len();
                read_whole(rule, text, &mut told);
                if is_json_only(rule.read_as) {
                    // What could not be read is one part as long as the attribute.
                    let mut contents =
                        told.iter().flat_map(|told| &told.message.parts).filter_map(|part| part.content.as_ref());
                    self.broken_json |= contents.any(|content| content.len() == bytes && message::is_broken(content));
                }
            }
        }
        for ((direction, _, number), draft) in drafts {
            let attributes = draft.attributes.clone();
            let Some(message) = draft.finish(direction) else { continue };
            attributes.into_iter().for_each(|index| held[index] = CONTENT);
            told.push(Told::new(direction, Some(i64::from(number)), message));
        }
        for (rule, text) in wholes {
            let better = told.iter().any(|told: &Told<'_>| {
                told.direction == rule.direction
                    || told.direction == Direction::System && rule.direction == Direction::Input
            });
            let part = Part::new(if better { "raw" } else { "text" }, text);
            told.push(Told::new(rule.direction, Some(0), Message::of(None, part)));
        }
        told
    }

    /// The text of a value, where it is of a form that the rule reads.
    pub(super) fn text<'a>(&mut self, reader: &Reader<'a>, value: Value<'a>, read_as: ReadAs) -> Option<Cow<'a, str>> {
        match value {
            Value::String(bytes) => Some(match simdutf8::basic::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => {
                    self.repaired += 1;
                    String::from_utf8_lossy(bytes)
                }
            }),
            Value::Array(_) | Value::KvList(_) if !matches!(read_as, ReadAs::Role | ReadAs::FinishReason) => {
                self.json(reader, value).map(Cow::Owned)
            }
            _ => None,
        }
    }

    /// A structured value as JSON; `None` where it is nested too deep to be kept whole.
    pub(super) fn json(&mut self, reader: &Reader<'_>, value: Value<'_>) -> Option<String> {
        self.writer.cut = false;
        let mut text = Vec::new();
        let written = self.writer.write(reader, value, &mut text, &mut self.symbols);
        self.writer.finish_types(&mut self.symbols);
        self.symbols.clear();
        self.repaired += std::mem::take(&mut self.writer.repaired);
        match written {
            Ok(true) if !self.writer.cut => String::from_utf8(text).ok(),
            _ => None,
        }
    }
}

impl<'a> Told<'a> {
    pub(super) fn new(direction: Direction, position: Option<i64>, message: Message<'a>) -> Self {
        Self { direction: direction.with_role(message.role.as_deref()), position, message }
    }
}

/// Forms that are JSON wherever they are structured at all.
fn is_json_only(read_as: ReadAs) -> bool {
    matches!(read_as, ReadAs::Messages | ReadAs::Parts | ReadAs::Calls | ReadAs::Definitions)
}

fn is_piece(read_as: ReadAs) -> bool {
    !matches!(
        read_as,
        ReadAs::Text
            | ReadAs::Messages
            | ReadAs::Parts
            | ReadAs::Calls
            | ReadAs::Definitions
            | ReadAs::Arguments
            | ReadAs::Result
            | ReadAs::Answer
            | ReadAs::Whole
    )
}

/// Reads an attribute that holds whole messages.
fn read_whole<'r: 'a, 'a>(rule: &'r NameRule, text: Cow<'a, str>, told: &mut Vec<Told<'a>>) {
    let role = rule.role.as_deref();
    let messages = match rule.read_as {
        ReadAs::Messages => message::messages(text, role),
        ReadAs::Definitions => message::definitions(text),
        ReadAs::Answer => {
            let Some(messages) = message::answer(&text, role) else {
                return add_part(rule, role, Part::new("text", text), told);
            };
            told.push(Told::new(rule.direction, Some(0), Message::of(role, Part::new("raw", text))));
            messages
        }
        ReadAs::Parts => vec![message::parts(text, role)],
        ReadAs::Calls => return message::calls(text).into_iter().for_each(|part| add_part(rule, role, part, told)),
        ReadAs::Arguments => return add_part(rule, role, Part::new("tool_call", text), told),
        ReadAs::Result => return add_part(rule, role, Part::new("tool_result", text), told),
        _ => return add_part(rule, role, Part::new("text", text), told),
    };
    for (place, message) in messages.into_iter().enumerate() {
        let position = message.index.unwrap_or(place as i64);
        told.push(Told::new(rule.direction, Some(position), message));
    }
}

/// Several attributes that hold a part each tell of one message.
fn add_part<'a>(rule: &'a NameRule, role: Option<&'a str>, part: Part<'a>, told: &mut Vec<Told<'a>>) {
    let same = |told: &&mut Told<'a>| told.direction == rule.direction && told.message.role.as_deref() == role;
    match told.iter_mut().filter(|told| told.position == Some(0)).find(same) {
        Some(known) => known.message.parts.push(part),
        None => told.push(Told::new(rule.direction, Some(0), Message::of(role, part))),
    }
}

impl<'a> Draft<'a> {
    fn add(&mut self, read_as: ReadAs, second: u32, text: Cow<'a, str>) {
        let place = match read_as {
            ReadAs::Role => &mut self.role,
            ReadAs::Reasoning => &mut self.reasoning,
            ReadAs::Refusal => &mut self.refusal,
            ReadAs::FinishReason => &mut self.finish_reason,
            ReadAs::CallId => &mut self.call_id,
            ReadAs::Name => &mut self.name,
            ReadAs::Description => &mut self.tool.description,
            ReadAs::Parameters => &mut self.tool.parameters,
            ReadAs::Schema => &mut self.tool.schema,
            ReadAs::CallName => &mut self.calls.entry(second).or_default().tool_name,
            ReadAs::CallArguments => &mut self.calls.entry(second).or_default().content,
            ReadAs::CallPartId => &mut self.calls.entry(second).or_default().tool_call_id,
            ReadAs::PartType => &mut self.parts.entry(second).or_default().kind,
            ReadAs::PartText => &mut self.parts.entry(second).or_default().text,
            ReadAs::PartImage => &mut self.parts.entry(second).or_default().image,
            _ => &mut self.content,
        };
        place.get_or_insert(text);
    }

    /// The message; `None` where nothing was said: a role or the reason of an end alone is no content.
    fn finish(self, direction: Direction) -> Option<Message<'a>> {
        if direction == Direction::ToolDefinition {
            return self.definition();
        }
        // Some emitters tell results as Anthropic's API takes them: by a user, with the id of the call.
        let answers = match self.role.as_deref() {
            Some("tool" | "function") => true,
            Some("user") => self.call_id.is_some(),
            _ => false,
        };
        let role = self.role.or(self.default_role.map(Cow::Borrowed));
        let mut message = Message { role, finish_reason: self.finish_reason, ..Message::default() };
        message.parts.extend(self.reasoning.map(|text| Part::new("reasoning", text)));
        if let Some(content) = self.content {
            let has_more = !self.parts.is_empty() || !self.calls.is_empty();
            match message::content_parts(&content) {
                Some(mut parts) => message.parts.append(&mut parts),
                // A text of nothing says nothing beside another part.
                None if content.is_empty() && has_more => {}
                None => message.parts.push(Part::new("text", content)),
            }
        }
        // A call that is told as a part of the content as well has its data among the calls.
        let is_empty_call = |part: &Part<'_>| part.content.is_none() && matches!(&*part.kind, "tool_use" | "tool_call");
        let parts = self.parts.into_values().map(DraftPart::finish);
        message.parts.extend(parts.filter(|part| self.calls.is_empty() || !is_empty_call(part)));
        message.parts.extend(self.refusal.map(|text| Part::new("refusal", text)));
        message.parts.extend(self.calls.into_values().map(|call| Part { kind: "tool_call".into(), ..call }));
        for part in message.parts.iter_mut().filter(|part| answers && part.kind == "text") {
            part.kind = "tool_result".into();
            part.tool_call_id.clone_from(&self.call_id);
            part.tool_name.clone_from(&self.name);
        }
        if !answers {
            let more = [("name", self.name), ("tool_call_id", self.call_id)];
            for (key, value) in more {
                if let Some(value) = value {
                    message.details.insert(key.into(), Json::String(value));
                }
            }
        }
        (!message.parts.is_empty()).then_some(message)
    }

    fn definition(self) -> Option<Message<'a>> {
        let Tool { description, parameters, schema } = self.tool;
        if let Some(schema) = schema {
            let name = parse_tree(&schema).map(message::tool).and_then(|part| part.tool_name);
            let name = name.map(|name| Cow::Owned(name.into_owned()));
            let part = Part { tool_name: self.name.or(name), ..Part::new("tool", schema) };
            return Some(Message::of(None, part));
        }
        if self.name.is_none() && description.is_none() && parameters.is_none() {
            return None;
        }
        let mut object = Object::default();
        for (key, text) in [("name", self.name.as_deref()), ("description", description.as_deref())] {
            if let Some(text) = text {
                object.insert(key.into(), Json::String(text.into()));
            }
        }
        if let Some(parameters) = &parameters {
            let json = parse_tree(parameters).unwrap_or(Json::String(parameters.as_ref().into()));
            object.insert("parameters".into(), json);
        }
        let text = Json::Object(object).to_string();
        let part = Part { tool_name: self.name, ..Part::new("tool", text) };
        Some(Message::of(None, part))
    }
}

impl<'a> DraftPart<'a> {
    fn finish(self) -> Part<'a> {
        let kind = match (self.kind, &self.image) {
            (Some(kind), _) if matches!(&*kind, "input_text" | "output_text") => "text".into(),
            (Some(kind), _) if kind != "image_url" => kind,
            (_, Some(_)) => "image".into(),
            _ => "text".into(),
        };
        let mut details = Object::default();
        if let (Some(_), Some(image)) = (&self.text, &self.image) {
            details.insert("image".into(), Json::String(image.clone()));
        }
        Part { kind, content: self.text.or(self.image), details, ..Part::default() }
    }
}
