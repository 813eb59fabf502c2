//! Messages, and messages out of JSON in the shapes that producers and providers write.

use std::borrow::Cow;

use crate::json::{Json, Object, parse_tree};

/// A message: who spoke, and the parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) role: Option<Cow<'a, str>>,
    pub(super) finish_reason: Option<Cow<'a, str>>,
    pub(super) parts: Vec<Part<'a>>,
    /// The place that the message itself tells, as choices do.
    pub(super) index: Option<i64>,
    /// What else it told.
    pub(super) details: Object<'a>,
}

/// A part of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Part<'a> {
    pub(super) kind: Cow<'a, str>,
    pub(super) content: Option<Cow<'a, str>>,
    pub(super) tool_name: Option<Cow<'a, str>>,
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    pub(super) details: Object<'a>,
}

impl<'a> Part<'a> {
    pub(super) fn new(kind: &'static str, content: impl Into<Cow<'a, str>>) -> Self {
        Self { kind: kind.into(), content: Some(content.into()), ..Self::default() }
    }
}

impl<'a> Message<'a> {
    /// A message of one part.
    pub(super) fn of(role: Option<&'a str>, part: Part<'a>) -> Self {
        Self { role: role.map(Cow::Borrowed), parts: vec![part], ..Self::default() }
    }

    fn or_role(mut self, role: Option<&'a str>) -> Self {
        self.role = self.role.or(role.map(Cow::Borrowed));
        self
    }
}

/// Commas in a text that is read as JSON whatever they separate.
const COMMAS_FREE: usize = 10_000;
/// Commas in a text that is read as JSON at all: each may cost a hundred bytes of memory.
const COMMAS_MAX: usize = 500_000;
/// Bytes a comma of a longer text: there is less between them where there is no prose.
const BYTES_PER_COMMA_MIN: usize = 8;

/// JSON that is worth reading: an array or an object. `None` for all other text, broken JSON and heaps of tiny values
/// included.
pub(super) fn structure<'a>(text: &Cow<'a, str>) -> Option<Json<'a>> {
    match text {
        Cow::Borrowed(text) => structure_in(text),
        Cow::Owned(text) => structure_in(text).map(Json::into_owned),
    }
}

/// Whether a text begins like JSON and is none.
pub(super) fn is_broken(text: &str) -> bool {
    crate::reading::begins_like_json(text.as_bytes()) && parse_tree(text).is_none()
}

fn structure_in(text: &str) -> Option<Json<'_>> {
    if !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    if text.len() > COMMAS_FREE {
        let commas = memchr::memchr_iter(b',', text.as_bytes()).count();
        if commas > COMMAS_FREE && (commas > COMMAS_MAX || text.len() / commas < BYTES_PER_COMMA_MIN) {
            return None;
        }
    }
    parse_tree(text)
}

/// The messages in a text; where it holds none that are understood, it is one message itself.
pub(super) fn messages<'a>(text: Cow<'a, str>, role: Option<&'a str>) -> Vec<Message<'a>> {
    let found = match structure(&text) {
        Some(Json::Array(array)) => list(array.items, role).ok(),
        Some(Json::Object(object)) => wrapped(object, role),
        _ => None,
    };
    found.unwrap_or_else(|| vec![Message::of(role, Part::new("text", text))])
}

/// The parts in a text, as one message.
pub(super) fn parts<'a>(text: Cow<'a, str>, role: Option<&'a str>) -> Message<'a> {
    let parts: Vec<Part<'a>> = match structure(&text) {
        Some(Json::Array(array)) => array.items.into_iter().map(part).collect(),
        Some(Json::Object(object)) => vec![part(Json::Object(object))],
        _ => vec![Part::new("text", text)],
    };
    Message { role: role.map(Cow::Borrowed), parts, ..Message::default() }
}

/// The parts that the content of a message holds as JSON text: only where every item is a part of a known type, since a
/// prompt may be JSON itself.
pub(super) fn content_parts<'a>(text: &Cow<'a, str>) -> Option<Vec<Part<'a>>> {
    const KNOWN: &[&str] = &[
        "text",
        "input_text",
        "output_text",
        "image_url",
        "input_image",
        "image",
        "input_audio",
        "audio",
        "file",
        "document",
        "tool_use",
        "tool_result",
        "tool-call",
        "tool-result",
        "thinking",
        "redacted_thinking",
        "reasoning",
        "refusal",
    ];
    let items = array(structure(text)?)?;
    let known = |item: &Json<'_>| item.get("type").and_then(Json::as_str).is_some_and(|kind| KNOWN.contains(&kind));
    (!items.is_empty() && items.iter().all(known)).then(|| items.into_iter().map(part).collect())
}

/// Tool calls in a text, as parts.
pub(super) fn calls(text: Cow<'_, str>) -> Vec<Part<'_>> {
    match structure(&text) {
        Some(Json::Array(array)) if array.items.iter().all(Json::is_object) => {
            array.items.into_iter().map(call).collect()
        }
        Some(Json::Object(object)) => vec![call(Json::Object(object))],
        _ => vec![Part::new("tool_call", text)],
    }
}

/// Tool definitions in a text, one a message.
pub(super) fn definitions(text: Cow<'_, str>) -> Vec<Message<'_>> {
    let definition = |part| Message::of(None, part);
    match structure(&text) {
        Some(Json::Array(array)) => array.items.into_iter().map(|item| definition(tool(item))).collect(),
        Some(object) => vec![definition(tool(object))],
        None => vec![definition(Part::new("tool", text))],
    }
}

/// A tool definition: kept whole, its name beside it.
pub(super) fn tool(item: Json<'_>) -> Part<'_> {
    // Some lists hold each definition as text.
    let parsed = item.as_str().and_then(structure_in);
    let object = parsed.as_ref().unwrap_or(&item);
    let name = object
        .get("name")
        .or_else(|| object.get("function")?.get("name"))
        .or_else(|| object.get("toolSpec")?.get("name"));
    let tool_name = name.and_then(Json::as_str).map(|name| Cow::Owned(name.to_owned()));
    Part { tool_name, ..Part::new("tool", item.into_text()) }
}

/// The messages in the whole answer of a provider; `None` where it is none.
pub(super) fn answer<'a>(text: &Cow<'a, str>, role: Option<&'a str>) -> Option<Vec<Message<'a>>> {
    let Some(Json::Object(mut object)) = structure(text) else { return None };
    for key in ["choices", "candidates", "output"] {
        if let Some(items) = object.remove(key).and_then(array) {
            let messages = items.into_iter().map(|item| match item {
                Json::Object(object) if is_message(&object) || object.contains_key("text") => {
                    message(object).or_role(role)
                }
                other => Message::of(role, part(other)),
            });
            return Some(messages.collect());
        }
    }
    let told = ["content", "message", "response", "completion"].iter().any(|key| object.contains_key(key));
    told.then(|| vec![message(object).or_role(role)])
}

/// The items of an array.
fn array(json: Json<'_>) -> Option<Vec<Json<'_>>> {
    match json {
        Json::Array(array) => Some(array.items),
        _ => None,
    }
}

/// The messages in a list; the list itself where it holds none.
fn list<'a>(items: Vec<Json<'a>>, role: Option<&'a str>) -> Result<Vec<Message<'a>>, Vec<Json<'a>>> {
    if items.is_empty() {
        return Err(items);
    }
    if items.iter().all(Json::is_string) {
        return Ok(items.into_iter().map(|item| Message::of(role, Part::new("text", item.into_text()))).collect());
    }
    if items.iter().all(|item| item.as_object().is_some_and(is_message)) {
        let objects = items.into_iter().filter_map(|item| match item {
            Json::Object(object) => Some(message(object).or_role(role)),
            _ => None,
        });
        return Ok(objects.collect());
    }
    if items.iter().all(|item| item.get("type").is_some_and(Json::is_string)) {
        let parts = items.into_iter().map(part).collect();
        return Ok(vec![Message { role: role.map(Cow::Borrowed), parts, ..Message::default() }]);
    }
    Err(items)
}

fn is_message(object: &Object<'_>) -> bool {
    ["role", "message", "parts", "tool_calls", "finish_reason"].iter().any(|key| object.contains_key(key))
        || object.contains_key("content") && !object.contains_key("type")
}

/// `{"system": …, "messages": […]}`, `{"prompt": …}`, or a message by itself.
fn wrapped<'a>(mut object: Object<'a>, role: Option<&'a str>) -> Option<Vec<Message<'a>>> {
    let is_prompt = object.get("prompt").is_some_and(|prompt| prompt.is_string() || prompt.is_array());
    if !is_prompt && !object.get("messages").is_some_and(Json::is_array) {
        return is_message(&object).then(|| vec![message(object).or_role(role)]);
    }
    let mut messages = Vec::new();
    if object.get("system").is_some_and(Json::is_string)
        && let Some(system) = object.remove("system")
    {
        messages.push(Message::of(Some("system"), Part::new("text", system.into_text())));
    }
    for key in ["prompt", "messages"] {
        match object.remove(key) {
            Some(Json::Null) | None => {}
            Some(Json::Array(mut array)) => match list(std::mem::take(&mut array.items), role) {
                Ok(mut found) => messages.append(&mut found),
                Err(items) => {
                    array.items = items;
                    messages.push(Message::of(role, Part::new("text", Json::Array(array).into_text())));
                }
            },
            Some(prompt) => messages.push(Message::of(role, Part::new("text", prompt.into_text()))),
        }
    }
    if let Some(first) = messages.first_mut() {
        first.details.append(&mut object);
    }
    Some(messages)
}

/// A message out of an object, in any of the shapes: of OpenTelemetry, of the chat APIs, of choices and candidates.
pub(super) fn message(mut object: Object<'_>) -> Message<'_> {
    let mut message = match object.remove("message") {
        Some(Json::Object(inner)) => self::message(inner),
        Some(other) => Message { parts: inner_parts(other), ..Message::default() },
        None => Message::default(),
    };
    let role = take_text(&mut object, &["role"]);
    message.role = role.or(message.role);
    let finish_reason = take_text(&mut object, &["finish_reason", "finishReason", "stop_reason", "stopReason"]);
    message.finish_reason = finish_reason.or(message.finish_reason);
    if let Some(index) = object.get("index").and_then(Json::as_i64) {
        message.index = Some(index);
        object.remove("index");
    }
    for key in ["reasoning_content", "reasoning", "thinking"] {
        if object.get(key).is_some_and(Json::is_string)
            && let Some(reasoning) = object.remove(key)
        {
            message.parts.push(Part::new("reasoning", reasoning.into_text()));
        }
    }
    for key in ["parts", "content", "text", "response", "completion"] {
        if let Some(content) = object.remove(key) {
            message.parts.append(&mut inner_parts(content));
        }
    }
    if let Some(refusal) = take_text(&mut object, &["refusal"]) {
        message.parts.push(Part::new("refusal", refusal));
    }
    for key in ["tool_calls", "toolCalls"] {
        match object.remove(key) {
            Some(Json::Array(array)) => message.parts.extend(array.items.into_iter().map(call)),
            Some(Json::Null) | None => {}
            Some(other) => message.parts.push(call(other)),
        }
    }
    if object.get("function_call").is_some_and(Json::is_object)
        && let Some(function) = object.remove("function_call")
    {
        message.parts.push(call(function));
    }
    answer_of_tool(&mut message, &mut object);
    // A text of nothing says nothing beside another part.
    if message.parts.len() > 1 {
        message.parts.retain(|part| part.kind != "text" || part.content.as_ref().is_some_and(|text| !text.is_empty()));
    }
    object.drop_nulls();
    message.details.append(&mut object);
    message
}

/// What a tool answered is a result, tied to its call by an id.
fn answer_of_tool<'a>(message: &mut Message<'a>, object: &mut Object<'a>) {
    if !matches!(message.role.as_deref(), Some("tool" | "function")) {
        return;
    }
    let id = take_text(object, &["tool_call_id", "id", "toolCallId"]);
    let name = take_text(object, &["name", "toolName"]);
    for part in message.parts.iter_mut().filter(|part| part.kind == "text" || part.kind == "tool_result") {
        part.kind = "tool_result".into();
        part.tool_call_id = part.tool_call_id.take().or_else(|| id.clone());
        part.tool_name = part.tool_name.take().or_else(|| name.clone());
    }
}

/// The parts of what stands in `content`.
fn inner_parts(content: Json<'_>) -> Vec<Part<'_>> {
    match content {
        Json::Null => Vec::new(),
        Json::Array(array) => array.items.into_iter().map(part).collect(),
        // Gemini wraps them once more.
        Json::Object(mut object) if object.get("parts").is_some_and(Json::is_array) => {
            let items = object.remove("parts").and_then(array).unwrap_or_default();
            items.into_iter().map(part).collect()
        }
        other => vec![part(other)],
    }
}

/// A part out of JSON. One of an unknown type is kept whole, under its type.
pub(super) fn part(json: Json<'_>) -> Part<'_> {
    let mut object = match json {
        Json::Object(object) => object,
        other => return Part::new("text", other.into_text()),
    };
    let told = object.get("type").and_then(Json::as_str);
    let kind = match told {
        Some(kind) if kind.contains('-') => kind.replace('-', "_").into(),
        Some(kind) => Cow::Borrowed(kind),
        None => kind_of_key(&object).into(),
    };
    let (kind, keys): (&str, &[&str]) = match &*kind {
        "text" | "input_text" | "output_text" => ("text", &["text", "content"]),
        "reasoning" | "thinking" => ("reasoning", &["content", "thinking", "text"]),
        "refusal" => ("refusal", &["refusal", "content"]),
        "tool_call" | "tool_use" | "function_call" | "function" | "server_tool_use" => {
            return call(Json::Object(object));
        }
        "tool_call_response" | "tool_result" | "tool_response" | "function_call_output" | "function_response" => {
            return result(object);
        }
        "message" => ("text", &["text", "content"]),
        "image" | "image_url" | "input_image" => ("image", &["image_url", "url", "image", "content", "data"]),
        "audio" | "input_audio" => ("audio", &["content", "data"]),
        "blob" => ("blob", &["content", "data"]),
        "uri" => ("uri", &["uri"]),
        "file" => ("file", &["file_id", "content", "data"]),
        _ => {
            let kind = kind.into_owned().into();
            return Part { kind, ..Part::new("", Json::Object(object).into_text()) };
        }
    };
    let Some(content) = keys.iter().find_map(|key| take_content(&mut object, key)) else {
        return Part::new(kind, Json::Object(object).into_text());
    };
    object.remove("type");
    let modality = take_text(&mut object, &["modality"]);
    let kind = match (kind, modality) {
        ("blob" | "uri" | "file", Some(modality)) => modality,
        ("blob", None) => "file".into(),
        _ => kind.into(),
    };
    object.drop_nulls();
    Part { kind, content: Some(content), details: object, ..Part::default() }
}

/// The kind of a part whose provider tells it by a key.
fn kind_of_key(object: &Object<'_>) -> &'static str {
    const KEYS: &[(&str, &str)] = &[
        ("text", "text"),
        ("functionCall", "tool_call"),
        ("function_call", "tool_call"),
        ("toolUse", "tool_call"),
        ("functionResponse", "tool_result"),
        ("function_response", "tool_result"),
        ("toolResult", "tool_result"),
        ("inlineData", "inline_data"),
        ("image", "image_data"),
        ("image_url", "image"),
        ("content", "text"),
    ];
    KEYS.iter().find(|(key, _)| object.contains_key(key)).map_or("json", |(_, kind)| kind)
}

/// What stands under a key, where it is text, or an object that holds a URL.
fn take_content<'a>(object: &mut Object<'a>, key: &str) -> Option<Cow<'a, str>> {
    match object.get(key)? {
        Json::String(_) => object.remove(key).map(Json::into_text),
        Json::Object(inner) if inner.len() == 1 => {
            let url = inner.get("url").and_then(Json::as_str)?.to_owned();
            object.remove(key);
            Some(url.into())
        }
        _ => None,
    }
}

/// A tool call. Its arguments are its content.
pub(super) fn call(json: Json<'_>) -> Part<'_> {
    let mut object = match json {
        Json::Object(object) => object,
        other => return Part::new("tool_call", other.into_text()),
    };
    for key in ["function", "functionCall", "function_call", "toolUse"] {
        if let Some(Json::Object(mut inner)) = object.remove(key) {
            object.append(&mut inner);
        }
    }
    let tool_call_id = take_text(&mut object, &["call_id", "id", "toolCallId", "tool_call_id", "toolUseId"]);
    let tool_name = take_text(&mut object, &["name", "toolName", "tool_name"]);
    let arguments = ["arguments", "args", "input", "parameters"].iter().find_map(|key| object.remove(key));
    object.remove("type");
    object.drop_nulls();
    let content = arguments.filter(|arguments| !arguments.is_null()).map(Json::into_text);
    Part { kind: "tool_call".into(), content, tool_name, tool_call_id, details: object }
}

/// What a tool gave back.
fn result(mut object: Object<'_>) -> Part<'_> {
    for key in ["functionResponse", "function_response", "toolResult"] {
        if let Some(Json::Object(mut inner)) = object.remove(key) {
            object.append(&mut inner);
        }
    }
    let tool_call_id =
        take_text(&mut object, &["tool_use_id", "call_id", "id", "toolCallId", "tool_call_id", "toolUseId"]);
    let tool_name = take_text(&mut object, &["name", "toolName", "tool_name"]);
    let found = ["response", "result", "content", "output"].iter().find_map(|key| object.remove(key));
    object.remove("type");
    object.drop_nulls();
    let content = found.filter(|found| !found.is_null()).map(Json::into_text);
    Part { kind: "tool_result".into(), content, tool_name, tool_call_id, details: object }
}

fn take_text<'a>(object: &mut Object<'a>, keys: &[&str]) -> Option<Cow<'a, str>> {
    let key = keys.iter().find(|key| object.get(key).is_some_and(Json::is_string))?;
    object.remove(key).map(Json::into_text)
}

/// Whether an object is a message, or the choice of one.
pub(super) fn is_told(object: &Object<'_>) -> bool {
    is_message(object) || object.contains_key("content") || object.contains_key("text")
}

/// The content or the calls of an event's attribute, where they are JSON of parts or calls.
pub(super) fn content_json<'a>(key: &str, text: &Cow<'a, str>) -> Option<Json<'a>> {
    let is_calls = key.ends_with("calls");
    (is_calls || content_parts(text).is_some()).then(|| structure(text)).flatten()
}
