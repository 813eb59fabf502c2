//! What the services do: each function adds the spans of one request to a trace.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

use super::calls::{Caller, Chat, MILLISECOND, chat, embed, query};
use super::models::{CLAUDE_SONNET, GEMINI_FLASH, GPT_4O, GPT_4O_MINI, GUARD};
use super::random::Random;
use super::traffic::{Facts, Service, Trace, int, text};

const QUESTIONS: &[(&str, &str)] = &[
    ("Where is my order 10482?", "It left our warehouse this morning and arrives on Thursday."),
    ("I want to return the blue jacket.", "No problem: here is your return label. You have 30 days."),
    ("Does the lamp work with 110 V?", "Yes, its power supply takes 100 to 240 V."),
    ("My invoice shows the wrong address.", "I have corrected it and sent you a new invoice by mail."),
];

const SECTIONS: &[(&str, &str)] = &[
    (
        "Write the summary of this week's support report from the tickets above. At most four sentences.",
        "Tickets fell by 8 % against last week. Most of them, 41 %, asked where an order was; the new tracking page answered a \
         third of those by itself. Returns took 2.1 days at the median, as before. Nothing is older than a week.",
    ),
    (
        "Write the section on returns. Name the three products that came back most, and why.",
        "The blue jacket came back 63 times, nearly always because it runs small; the desk lamp 22 times, with a loose socket; \
         the travel mug 17 times, without one reason that stands out.",
    ),
    (
        "Write the section on what customers praised, with two short quotations.",
        "Delivery was praised most: \"ordered on Monday, here on Tuesday\". Several thanked the chat for answering at night: \
         \"I did not expect anybody, or anything, to be awake\".",
    ),
    (
        "List what we should do next week, the most useful first.",
        "1. Correct the size chart of the blue jacket.\n2. Ask the maker of the lamp about its socket.\n3. Link the tracking page \
         in the mail that confirms an order.",
    ),
];

/// A customer asks, an agent looks things up and answers; sometimes over the search service.
pub(super) fn support_chat(random: &mut Random, trace: &mut Trace) {
    let service = Service::Support;
    let (root, agent) = (random.bytes::<8>(), random.bytes::<8>());
    let user = format!("user-{}", random.between(1, 400));
    let conversation = format!("conv-{:08x}", random.next() as u32);
    let context = vec![
        text("gen_ai.conversation.id", &conversation),
        text("user.id", &user),
        text("gen_ai.agent.name", "support-agent"),
    ];
    let guard = Caller { service, parent: root.clone(), context: Vec::new() };
    let checked = Chat::new(&GUARD, random.between(40, 300), 3);
    let (mut at, mut is_good) = chat(random, trace, &guard, 3 * MILLISECOND, &checked);
    let agent_start = at;
    let caller = Caller { service, parent: agent.clone(), context: context.clone() };
    let history = random.skewed(900.0, 0.6) as u64 + 300;
    let turns = random.between(0, 2);
    for turn in 0..turns {
        let mut ask = Chat::new(&GPT_4O_MINI, history + turn * 350, random.between(18, 60));
        // The prompt's beginning was cached by the call before, in steps of 128 tokens.
        ask.cache_read_tokens = if turn > 0 { ask.input_tokens / 128 * 128 } else { 0 };
        ask.finish_reason = "tool_calls";
        (at, is_good) = chat(random, trace, &caller, at + MILLISECOND, &ask);
        if !is_good {
            break;
        }
        at = tool(random, trace, &caller, at + MILLISECOND);
    }
    if is_good {
        let mut last = Chat::new(&GPT_4O_MINI, history + turns * 350, random.skewed(110.0, 0.5) as u64 + 10);
        last.cache_read_tokens = if turns > 0 { last.input_tokens / 128 * 128 } else { 0 };
        last.is_streamed = true;
        last.content = Some(*random.pick(QUESTIONS));
        (at, is_good) = chat(random, trace, &caller, at + MILLISECOND, &last);
    }
    let mut attributes =
        vec![text("gen_ai.operation.name", "invoke_agent"), text("gen_ai.agent.id", "agent-support-1")];
    attributes.extend(context);
    let error = (!is_good).then(|| "the model did not answer".to_owned());
    attributes.extend((!is_good).then(|| text("error.type", "no_answer")));
    let facts = Facts {
        id: agent,
        parent: root.clone(),
        name: "invoke_agent support-agent".to_owned(),
        kind: SpanKind::Internal,
        time: agent_start..at,
        error,
        attributes,
    };
    trace.push(service, facts);
    let request = Request { service, id: root, parent: Vec::new(), route: "/api/chat", is_good };
    request.push(trace, 0, at + 2 * MILLISECOND, vec![text("user.id", user), text("session.id", conversation)]);
}

/// A tool of the support agent.
fn tool(random: &mut Random, trace: &mut Trace, caller: &Caller, at: u64) -> u64 {
    let (id, name) = (random.bytes::<8>(), *random.pick(&["lookup_order", "lookup_customer", "search_docs"]));
    let inside = Caller { service: caller.service, parent: id.clone(), context: Vec::new() };
    let mut end = at + random.between(2, 15) * MILLISECOND;
    if name == "search_docs" {
        // Another service in the same trace: the client's span here, the server's span there.
        let client = random.bytes::<8>();
        let answered = search_request(random, trace, client.clone(), end + 2 * MILLISECOND);
        let facts = Facts {
            id: client,
            parent: id.clone(),
            name: "POST".to_owned(),
            kind: SpanKind::Client,
            time: end..answered + MILLISECOND,
            error: None,
            attributes: vec![
                text("http.request.method", "POST"),
                text("url.full", "http://search-api.internal/search"),
                text("server.address", "search-api.internal"),
                int("http.response.status_code", 200),
            ],
        };
        trace.push(caller.service, facts);
        end = answered + 3 * MILLISECOND;
    } else {
        end = query(random, trace, &inside, end, "SELECT id, state, eta FROM orders WHERE id = $1");
    }
    let mut attributes = vec![
        text("gen_ai.operation.name", "execute_tool"),
        text("gen_ai.tool.name", name),
        text("gen_ai.tool.type", "function"),
        text("gen_ai.tool.call.id", format!("call_{:012x}", random.next() >> 16)),
    ];
    attributes.extend(caller.context.iter().cloned());
    let facts = Facts {
        id,
        parent: caller.parent.clone(),
        name: format!("execute_tool {name}"),
        kind: SpanKind::Internal,
        time: at..end,
        error: None,
        attributes,
    };
    trace.push(caller.service, facts);
    end
}

/// Retrieval and an answer from what was found.
pub(super) fn search(random: &mut Random, trace: &mut Trace) {
    search_request(random, trace, Vec::new(), 0);
}

fn search_request(random: &mut Random, trace: &mut Trace, parent: Vec<u8>, start: u64) -> u64 {
    let (service, root) = (Service::Search, random.bytes::<8>());
    let caller = Caller { service, parent: root.clone(), context: vec![text("gen_ai.workflow.name", "answer_search")] };
    let embedded = embed(random, trace, &caller, start + 2 * MILLISECOND);
    let statement = "SELECT id, body FROM documents ORDER BY embedding <=> $1 LIMIT 8";
    let mut at = query(random, trace, &caller, embedded, statement);
    let mut is_good = true;
    if random.chance(0.6) {
        let mut ask = Chat::new(&GPT_4O, random.skewed(2_400.0, 0.4) as u64, random.skewed(180.0, 0.5) as u64 + 5);
        ask.is_streamed = random.chance(0.5);
        (at, is_good) = chat(random, trace, &caller, at + MILLISECOND, &ask);
    }
    let end = at + MILLISECOND;
    let request = Request { service, id: root, parent, route: "/search", is_good };
    request.push(trace, start, end, Vec::new());
    end
}

/// A long document written in several steps over the same, cached source material.
pub(super) fn report(random: &mut Random, trace: &mut Trace) {
    let (service, root) = (Service::Reports, random.bytes::<8>());
    let context = vec![text("gen_ai.workflow.name", "weekly_report")];
    let caller = Caller { service, parent: root.clone(), context: context.clone() };
    let source = random.skewed(14_000.0, 0.4) as u64 + 2_000;
    let (mut at, mut is_good) = (5 * MILLISECOND, true);
    for step in 0..random.between(3, 5) {
        let mut ask = Chat::new(&CLAUDE_SONNET, source + step * 900, random.skewed(900.0, 0.4) as u64);
        ask.content = SECTIONS.get(step as usize % SECTIONS.len()).copied();
        if step == 0 {
            ask.cache_write_tokens = source;
        } else {
            ask.cache_read_tokens = source;
        }
        if ask.output_tokens > 1_500 {
            ask.finish_reason = "max_tokens";
        }
        (at, is_good) = chat(random, trace, &caller, at + 4 * MILLISECOND, &ask);
        if !is_good {
            break;
        }
    }
    let mut attributes = vec![text("gen_ai.operation.name", "invoke_workflow")];
    attributes.extend(context);
    attributes.extend((!is_good).then(|| text("error.type", "no_answer")));
    let facts = Facts {
        id: root,
        parent: Vec::new(),
        name: "invoke_workflow weekly_report".to_owned(),
        kind: SpanKind::Internal,
        time: 0..at + MILLISECOND,
        error: (!is_good).then(|| "a section could not be written".to_owned()),
        attributes,
    };
    trace.push(service, facts);
}

/// An editor waits for the next lines of code.
pub(super) fn code_completion(random: &mut Random, trace: &mut Trace) {
    let (service, root) = (Service::Code, random.bytes::<8>());
    let user = format!("dev-{}", random.between(1, 60));
    let context = vec![text("gen_ai.agent.name", "code-assistant"), text("user.id", &user)];
    let caller = Caller { service, parent: root.clone(), context };
    let output = random.skewed(260.0, 0.8) as u64 + 8;
    let mut ask = Chat::new(&GEMINI_FLASH, random.skewed(5_200.0, 0.7) as u64 + 200, output);
    ask.is_streamed = true;
    ask.reasoning_tokens = if random.chance(0.3) { output / 2 } else { 0 };
    ask.cache_read_tokens = if random.chance(0.5) { ask.input_tokens * 3 / 4 } else { 0 };
    let (at, is_good) = chat(random, trace, &caller, 2 * MILLISECOND, &ask);
    let request = Request { service, id: root, parent: Vec::new(), route: "/v1/complete", is_good };
    request.push(trace, 0, at + MILLISECOND, vec![text("user.id", user)]);
}

/// A request that came over HTTP.
struct Request {
    service: Service,
    id: Vec<u8>,
    parent: Vec<u8>,
    route: &'static str,
    is_good: bool,
}

impl Request {
    fn push(self, trace: &mut Trace, start: u64, end: u64, further: Vec<KeyValue>) {
        let status = if self.is_good { 200 } else { 502 };
        let mut attributes = vec![
            text("http.request.method", "POST"),
            text("http.route", self.route),
            text("url.path", self.route),
            text("url.scheme", "http"),
            int("http.response.status_code", status),
        ];
        attributes.extend(further);
        if !self.is_good {
            attributes.push(text("error.type", "502"));
        }
        let facts = Facts {
            id: self.id,
            parent: self.parent,
            name: format!("POST {}", self.route),
            kind: SpanKind::Server,
            time: start..end,
            error: (!self.is_good).then(String::new),
            attributes,
        };
        trace.push(self.service, facts);
    }
}
