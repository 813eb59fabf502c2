//! Messages, and messages out of JSON in the shapes that producers and providers write.

use std::borrow::Cow;

use serde_json::{Map, Value as Json};

/// A message: who spoke, and the parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) role: Option<Cow<'a, str>>,
    pub(super) finish_reason: Option<Cow<'a, str>>,
    pub(super) parts: Vec<Part<'a>>,
    /// The place that the message itself tells, as choices do.
    pub(super) index: Option<i64>,
    /// What else it told.
    pub(super) details: Map<String, Json>,
}

/// A part of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Part<'a> {
    pub(super) kind: Cow<'a, str>,
    pub(super) content: Option<Cow<'a, str>>,
    pub(super) tool_name: Option<Cow<'a, str>>,
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    pub(super) details: Map<String, Json>,
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
fn structure(text: &str) -> Option<Json> {
    if !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    let commas = memchr::memchr_iter(b',', text.as_bytes()).count();
    if commas > COMMAS_FREE && (commas > COMMAS_MAX || text.len() / commas < BYTES_PER_COMMA_MIN) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// The messages in a text; where it holds none that are understood, it is one message itself.
pub(super) fn messages<'a>(text: Cow<'a, str>, role: Option<&'a str>) -> Vec<Message<'a>> {
    let found = match structure(&text) {
        Some(Json::Array(items)) => list(items, role),
        Some(Json::Object(object)) => wrapped(object, role),
        _ => None,
    };
    found.unwrap_or_else(|| vec![Message::of(role, Part::new("text", text))])
}

/// The parts in a text, as one message.
pub(super) fn parts<'a>(text: Cow<'a, str>, role: Option<&'a str>) -> Message<'a> {
    let parts: Vec<Part<'a>> = match structure(&text) {
        Some(Json::Array(items)) => items.into_iter().map(|item| -> Part<'a> { part(item) }).collect(),
        Some(Json::Object(object)) => vec![part(Json::Object(object))],
        _ => vec![Part::new("text", text)],
    };
    Message { role: role.map(Cow::Borrowed), parts, ..Message::default() }
}

/// The parts that the content of a message holds as JSON text: only where every item is a part of a known type, since a
/// prompt may be JSON itself.
pub(super) fn content_parts(text: &str) -> Option<Vec<Part<'static>>> {
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
    let Some(Json::Array(items)) = structure(text) else { return None };
    let known = |item: &Json| item.get("type").and_then(Json::as_str).is_some_and(|kind| KNOWN.contains(&kind));
    (!items.is_empty() && items.iter().all(known)).then(|| items.into_iter().map(part).collect())
}

/// Tool calls in a text, as parts.
pub(super) fn calls(text: Cow<'_, str>) -> Vec<Part<'_>> {
    match structure(&text) {
        Some(Json::Array(items)) if items.iter().all(Json::is_object) => items.into_iter().map(call).collect(),
        Some(Json::Object(object)) => vec![call(Json::Object(object))],
        _ => vec![Part::new("tool_call", text)],
    }
}

/// Tool definitions in a text, one a message.
pub(super) fn definitions(text: Cow<'_, str>) -> Vec<Message<'_>> {
    let definition = |part| Message::of(None, part);
    match structure(&text) {
        Some(Json::Array(items)) => items.into_iter().map(|item| definition(tool(item))).collect(),
        Some(object) => vec![definition(tool(object))],
        None => vec![definition(Part::new("tool", text))],
    }
}

/// A tool definition: kept whole, its name beside it.
pub(super) fn tool(item: Json) -> Part<'static> {
    // Some lists hold each definition as text.
    let parsed = item.as_str().and_then(structure);
    let object = parsed.as_ref().unwrap_or(&item);
    let name = object
        .get("name")
        .or_else(|| object.get("function")?.get("name"))
        .or_else(|| object.get("toolSpec")?.get("name"));
    let tool_name = name.and_then(Json::as_str).map(|name| Cow::Owned(name.to_owned()));
    Part { tool_name, ..Part::new("tool", text(item)) }
}

/// The messages in the whole answer of a provider; `None` where it is none.
pub(super) fn answer<'a>(text: &str, role: Option<&'a str>) -> Option<Vec<Message<'a>>> {
    let Some(Json::Object(mut object)) = structure(text) else { return None };
    for key in ["choices", "candidates", "output"] {
        if let Some(Json::Array(items)) = object.remove(key) {
            let messages = items.into_iter().map(|item| match item {
                Json::Object(object) if is_message(&object) || object.contains_key("text") => {
                    message(object).or_role(role)
                }
                other => Message::of(role, part(other)),
            });
            return Some(messages.collect());
        }
    }
    let told = ["content", "message", "response", "completion"].iter().any(|key| object.contains_key(*key));
    told.then(|| vec![message(object).or_role(role)])
}

fn list<'a>(items: Vec<Json>, role: Option<&'a str>) -> Option<Vec<Message<'a>>> {
    if items.is_empty() {
        return None;
    }
    if items.iter().all(Json::is_string) {
        return Some(items.into_iter().map(|item| Message::of(role, Part::new("text", text(item)))).collect());
    }
    if items.iter().all(|item| item.as_object().is_some_and(is_message)) {
        let objects = items.into_iter().filter_map(|item| match item {
            Json::Object(object) => Some(message(object).or_role(role)),
            _ => None,
        });
        return Some(objects.collect());
    }
    if items.iter().all(|item| item.get("type").is_some_and(Json::is_string)) {
        let parts = items.into_iter().map(part).collect();
        return Some(vec![Message { role: role.map(Cow::Borrowed), parts, ..Message::default() }]);
    }
    None
}

fn is_message(object: &Map<String, Json>) -> bool {
    ["role", "message", "parts", "tool_calls", "finish_reason"].iter().any(|key| object.contains_key(*key))
        || object.contains_key("content") && !object.contains_key("type")
}

/// `{"system": …, "messages": […]}`, `{"prompt": …}`, or a message by itself.
fn wrapped<'a>(mut object: Map<String, Json>, role: Option<&'a str>) -> Option<Vec<Message<'a>>> {
    let is_prompt = object.get("prompt").is_some_and(|prompt| prompt.is_string() || prompt.is_array());
    if !is_prompt && !object.get("messages").is_some_and(Json::is_array) {
        return is_message(&object).then(|| vec![message(object).or_role(role)]);
    }
    let mut messages = Vec::new();
    if object.get("system").is_some_and(Json::is_string)
        && let Some(system) = object.remove("system")
    {
        messages.push(Message::of(Some("system"), Part::new("text", text(system))));
    }
    for key in ["prompt", "messages"] {
        match object.remove(key) {
            Some(Json::Array(items)) => {
                let whole = Json::Array(items.clone());
                let found = list(items, role);
                messages.extend(found.unwrap_or_else(|| vec![Message::of(role, Part::new("text", text(whole)))]));
            }
            Some(Json::Null) | None => {}
            Some(prompt) => messages.push(Message::of(role, Part::new("text", text(prompt)))),
        }
    }
    if let Some(first) = messages.first_mut() {
        first.details.append(&mut object);
    }
    Some(messages)
}

/// A message out of an object, in any of the shapes: of OpenTelemetry, of the chat APIs, of choices and candidates.
pub(super) fn message(mut object: Map<String, Json>) -> Message<'static> {
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
            message.parts.push(Part::new("reasoning", text(reasoning)));
        }
    }
    for key in ["parts", "content", "text", "response", "completion"] {
        if let Some(content) = object.remove(key) {
            message.parts.append(&mut inner_parts(content));
        }
    }
    if let Some(refusal) = object.get("refusal").filter(|refusal| refusal.is_string()).cloned() {
        object.remove("refusal");
        message.parts.push(Part::new("refusal", text(refusal)));
    }
    for key in ["tool_calls", "toolCalls"] {
        match object.remove(key) {
            Some(Json::Array(items)) => message.parts.extend(items.into_iter().map(call)),
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
    object.retain(|_, value| !value.is_null());
    message.details.append(&mut object);
    message
}

/// What a tool answered is a result, tied to its call by an id.
fn answer_of_tool(message: &mut Message<'_>, object: &mut Map<String, Json>) {
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
fn inner_parts(content: Json) -> Vec<Part<'static>> {
    match content {
        Json::Null => Vec::new(),
        Json::Array(items) => items.into_iter().map(part).collect(),
        // Gemini wraps them once more.
        Json::Object(mut object) if object.get("parts").is_some_and(Json::is_array) => match object.remove("parts") {
            Some(Json::Array(items)) => items.into_iter().map(part).collect(),
            _ => Vec::new(),
        },
        other => vec![part(other)],
    }
}

/// A part out of JSON. One of an unknown type is kept whole, under its type.
pub(super) fn part(json: Json) -> Part<'static> {
    let mut object = match json {
        Json::Object(object) => object,
        other => return Part::new("text", text(other)),
    };
    let told = object.get("type").and_then(Json::as_str).map(|kind| kind.replace('-', "_"));
    let kind = told.unwrap_or_else(|| kind_of_key(&object).to_owned());
    let (kind, keys): (&str, &[&str]) = match kind.as_str() {
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
        _ => return Part { kind: kind.into(), ..Part::new("", Json::Object(object).to_string()) },
    };
    let Some(content) = keys.iter().find_map(|key| take_content(&mut object, key)) else {
        return Part::new(kind, Json::Object(object).to_string());
    };
    object.remove("type");
    let modality = take_text(&mut object, &["modality"]);
    let kind = match (kind, modality) {
        ("blob" | "uri" | "file", Some(modality)) => modality,
        ("blob", None) => "file".into(),
        _ => kind.to_owned().into(),
    };
    object.retain(|_, value| !value.is_null());
    Part { kind, content: Some(content), details: object, ..Part::default() }
}

/// The kind of a part whose provider tells it by a key.
fn kind_of_key(object: &Map<String, Json>) -> &'static str {
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
    KEYS.iter().find(|(key, _)| object.contains_key(*key)).map_or("json", |(_, kind)| kind)
}

/// What stands under a key, where it is text, or an object that holds a URL.
fn take_content(object: &mut Map<String, Json>, key: &str) -> Option<Cow<'static, str>> {
    match object.get(key)? {
        Json::String(_) => object.remove(key).map(text),
        Json::Object(inner) if inner.len() == 1 => {
            let url = inner.get("url").and_then(Json::as_str)?.to_owned();
            object.remove(key);
            Some(url.into())
        }
        _ => None,
    }
}

/// A tool call. Its arguments are its content.
pub(super) fn call(json: Json) -> Part<'static> {
    let mut object = match json {
        Json::Object(object) => object,
        other => return Part::new("tool_call", text(other)),
    };
    for key in ["function", "functionCall", "function_call", "toolUse"] {
        if let Some(Json::Object(mut inner)) = object.remove(key) {
            object.append(&mut inner);
        }
    }
    let tool_call_id = take_text(&mut object, &["call_id", "id", "toolCallId", "tool_call_id", "toolUseId"]);
    let tool_name = take_text(&mut object, &["name", "toolName", "tool_name"]);
    let arguments = ["arguments", "args", "input", "parameters"].iter().find_map(|key| object.remove(*key));
    object.remove("type");
    object.retain(|_, value| !value.is_null());
    let content = arguments.filter(|arguments| !arguments.is_null()).map(text);
    Part { kind: "tool_call".into(), content, tool_name, tool_call_id, details: object }
}

/// What a tool gave back.
fn result(mut object: Map<String, Json>) -> Part<'static> {
    for key in ["functionResponse", "function_response", "toolResult"] {
        if let Some(Json::Object(mut inner)) = object.remove(key) {
            object.append(&mut inner);
        }
    }
    let tool_call_id =
        take_text(&mut object, &["tool_use_id", "call_id", "id", "toolCallId", "tool_call_id", "toolUseId"]);
    let tool_name = take_text(&mut object, &["name", "toolName", "tool_name"]);
    let found = ["response", "result", "content", "output"].iter().find_map(|key| object.remove(*key));
    object.remove("type");
    object.retain(|_, value| !value.is_null());
    let content = found.filter(|found| !found.is_null()).map(text);
    Part { kind: "tool_result".into(), content, tool_name, tool_call_id, details: object }
}

fn take_text(object: &mut Map<String, Json>, keys: &[&str]) -> Option<Cow<'static, str>> {
    let key = keys.iter().find(|key| object.get(**key).is_some_and(Json::is_string))?;
    object.remove(*key).map(text)
}

/// Text as it is, all else as JSON.
fn text(json: Json) -> Cow<'static, str> {
    match json {
        Json::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// Whether an object is a message, or the choice of one.
pub(super) fn is_told(object: &Map<String, Json>) -> bool {
    is_message(object) || object.contains_key("content") || object.contains_key("text")
}

/// The content or the calls of an event's attribute, where they are JSON of parts or calls.
pub(super) fn content_json(key: &str, text: &str) -> Option<Json> {
    let is_calls = key.ends_with("calls");
    (is_calls || content_parts(text).is_some()).then(|| structure(text)).flatten()
}
