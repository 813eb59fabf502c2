//! Messages out of events: of spans, and of log records.

use std::borrow::Cow;

use super::attributes::Collector;
use super::message::{self, Message};
use super::rules::{ContentRules, EventRule, ReadAs};
use super::{CONTENT, Direction, Told};
use crate::json::{Json, Object};
use crate::value::{Attribute, Value};
use crate::wire::Reader;

/// An event as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventFields<'s, 'a> {
    pub(crate) name: &'a [u8],
    pub(crate) attributes: &'s [Attribute<'a>],
    /// Of log records only.
    pub(crate) body: Option<Value<'a>>,
}

/// What an event said.
#[derive(Debug, Default)]
pub(crate) struct Heard<'a> {
    pub(crate) told: Vec<Told<'a>>,
}

impl Collector {
    /// The messages of an event; marks in `held` the attributes that they hold.
    pub(crate) fn event<'r: 'a, 'a>(
        &mut self,
        rules: &'r ContentRules,
        reader: &Reader<'a>,
        event: EventFields<'_, 'a>,
        held: &mut [u8],
    ) -> Heard<'a> {
        let mut heard = Heard::default();
        let Some(rule) = rules.event(event.name) else { return heard };
        if self.find(rules, event.attributes) {
            heard.told = self.messages(rules, reader, event.attributes, held);
            if rule.direction.is_none() {
                heard.told.iter_mut().for_each(|told| told.position = told.position.or(Some(0)));
            }
        }
        let Some(direction) = rule.direction else { return heard };
        if let Some(body) = event.body {
            if let Some(message) = self.body(reader, body, rule).filter(says_something) {
                heard.told.push(placed(direction, message));
            }
            return heard;
        }
        if let Some(message) = self.in_attributes(rules, rule, reader, event.attributes, held) {
            heard.told.push(placed(direction, message));
        }
        heard
    }

    /// A message out of a body, or of an attribute that stands for one.
    fn body<'r: 'a, 'a>(&mut self, reader: &Reader<'a>, body: Value<'a>, rule: &'r EventRule) -> Option<Message<'a>> {
        let text = self.text(reader, body, ReadAs::Parts)?;
        let is_text = matches!(body, Value::String(_));
        match message::structure(&text) {
            Some(Json::Object(object)) if !is_text || message::is_told(&object) => Some(with_role(object, rule)),
            _ => Some(message::parts(text, rule.role.as_deref())),
        }
    }

    fn in_attributes<'r: 'a, 'a>(
        &mut self,
        rules: &'r ContentRules,
        rule: &'r EventRule,
        reader: &Reader<'a>,
        attributes: &[Attribute<'a>],
        held: &mut [u8],
    ) -> Option<Message<'a>> {
        let names = &rules.event_attributes;
        let is = |names: &[String], key: &[u8]| names.iter().any(|name| name.as_bytes() == key);
        let mut object = Object::default();
        let mut holding = Vec::new();
        let mut whole = None;
        for (index, attribute) in attributes.iter().enumerate() {
            if held[index] != 0 {
                continue;
            }
            if is(&names.body, attribute.key) && whole.is_none() {
                whole = self.body(reader, attribute.value, rule).filter(says_something);
                if whole.is_some() {
                    held[index] = CONTENT;
                }
                continue;
            }
            let is_content = is(&names.content, attribute.key) || is(&names.calls, attribute.key);
            let Some(text) = self.text(reader, attribute.value, ReadAs::Parts) else { continue };
            let key = String::from_utf8_lossy(attribute.key);
            if is_content {
                holding.push(index);
                // Content may be JSON text: of parts, or of calls.
                let json = message::content_json(&key, &text).unwrap_or(Json::String(text));
                object.insert(key, json);
            } else if matches!(&*key, "role" | "id" | "name" | "finish_reason" | "tool_call_id") {
                object.insert(key, Json::String(text));
            }
        }
        let index = attributes.iter().find_map(|attribute| match (attribute.key, attribute.value) {
            (b"index", Value::Int(index)) => Some(index),
            _ => None,
        });
        let finish_reason = object.get("finish_reason").and_then(Json::as_str).map(str::to_owned);
        let mut message = match whole {
            Some(whole) => whole,
            None if holding.is_empty() => return None,
            None => with_role(object, rule),
        };
        if !says_something(&message) {
            return None;
        }
        holding.into_iter().for_each(|index| held[index] = CONTENT);
        message.index = message.index.or(index);
        message.finish_reason = message.finish_reason.or(finish_reason.map(Cow::Owned));
        Some(message)
    }
}

/// A message out of an object; its role is the event's where it tells none.
fn with_role<'a>(mut object: Object<'a>, rule: &'a EventRule) -> Message<'a> {
    let inner = object.get("message").and_then(|inner| inner.get("role"));
    if let Some(role) = &rule.role
        && inner.is_none()
        && !object.get("role").is_some_and(Json::is_string)
    {
        object.insert("role".into(), Json::String(role.into()));
    }
    message::message(object)
}

fn says_something(message: &Message<'_>) -> bool {
    !message.parts.is_empty()
}

/// Only choices tell their place; that of the others follows from their time.
fn placed(direction: Direction, message: Message<'_>) -> Told<'_> {
    Told::new(direction, message.index, message)
}
