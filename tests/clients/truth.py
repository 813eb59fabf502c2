"""What the provider really answered, held against what SQL says about it.

Prices are the providers' published ones, in US dollars per million tokens, and stand here by hand: they are a second
opinion on the catalogue that the server uses.
"""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class Instrumentation:
    """Which of the provider's facts an instrumentation puts on its spans; what it leaves out has to be NULL."""

    cached: bool
    reasoning: bool
    streamed: bool


# It says nothing of cached and reasoning tokens, nor whether a call was streamed.
OPENAI_V2 = Instrumentation(cached=False, reasoning=False, streamed=False)
# It leaves reasoning tokens out where the call was streamed.
TRACELOOP = Instrumentation(cached=True, reasoning=True, streamed=True)

# model: input, cached input, output
PRICES = {
    "gpt-4o-mini-2024-07-18": ("0.15", "0.075", "0.60"),
    "gpt-4o-2024-08-06": ("2.50", "1.25", "10.00"),
    "gpt-4.1-2025-04-14": ("2.00", "0.50", "8.00"),
    "o3-mini-2025-01-31": ("1.10", "0.55", "4.40"),
    "text-embedding-3-small": ("0.02", "0.02", "0"),
    "text-embedding-3-large": ("0.13", "0.13", "0"),
}

PER_MODEL = """
    SELECT model,
           count(*) AS requests,
           count(*) FILTER (WHERE status_code = 'ERROR') AS errors,
           sum(input_tokens) AS input_tokens,
           sum(output_tokens) AS output_tokens,
           sum(cache_read_tokens) AS cache_read_tokens,
           sum(cost_usd) AS cost_usd
    FROM spans
    WHERE usage_role = 'leaf'
    GROUP BY model
    ORDER BY model
"""


def plus(total, number):
    """SQL's sum: of nothing known it is unknown."""
    return total if number is None else number if total is None else total + number


def usage(call, instrumentation):
    """Tokens of one call as far as an instrumentation can know them: input, output, cached."""
    if call["status"] >= 400 or not call["usage_on_wire"] and call["operation"] != "embeddings" or not call["usage"]:
        return None, None, None
    output = None if call["operation"] == "embeddings" else call["usage"]["output"]
    return call["usage"]["input"], output, call["usage"]["cached"] if instrumentation.cached else None


def cost(model, tokens):
    """The price of one call; None without usage or for a model that nobody has a price for."""
    given, answered, cached = tokens
    if given is None or model not in PRICES:
        return None
    rates = [Decimal(rate) / 1_000_000 for rate in PRICES[model]]
    return (given - (cached or 0)) * rates[0] + (cached or 0) * rates[1] + (answered or 0) * rates[2]


def per_model(calls, instrumentation):
    """What PER_MODEL must say, computed from the provider's log."""
    rows = defaultdict(lambda: [0, 0, None, None, None, None])
    for call in calls:
        model = call.get("model_returned", call["model_requested"])
        tokens = usage(call, instrumentation)
        row = rows[model]
        row[0] += 1
        row[1] += call["status"] >= 400
        for place, number in enumerate((*tokens, cost(model, tokens)), start=2):
            row[place] = plus(row[place], number)
    return {model: tuple(row) for model, row in rows.items()}


def told_per_model(server, where="true"):
    """What SQL says, in the same shape."""
    rows = server.sql(PER_MODEL.replace("usage_role = 'leaf'", f"usage_role = 'leaf' AND {where}"))
    return {row["model"]: told(row) for row in rows}


def told(row):
    dollars = row["cost_usd"]
    return (
        row["requests"],
        row["errors"],
        row["input_tokens"],
        row["output_tokens"],
        row["cache_read_tokens"],
        None if dollars is None else Decimal(dollars),
    )


def assert_each_answer_is_told(server, calls, instrumentation):
    """Holds every answer that has an id against its own span: totals may hide two errors that cancel out."""
    rows = server.sql("SELECT * FROM spans WHERE response_id IS NOT NULL AND usage_role = 'leaf'")
    spans = {row["response_id"]: row for row in rows}
    answers = [call for call in calls if call.get("response_id")]
    assert answers and sorted(spans) == sorted(call["response_id"] for call in answers)
    for call in answers:
        span = spans[call["response_id"]]
        expected = usage(call, instrumentation)
        told_tokens = (span["input_tokens"], span["output_tokens"], span["cache_read_tokens"])
        assert told_tokens == expected, call
        assert span["operation"] == call["operation"]
        assert span["provider"] == call["provider"]
        assert span["request_model"] == call["model_requested"]
        assert span["response_model"] == call["model_returned"]
        reasoning_is_told = instrumentation.reasoning and call["usage"] and not call["streamed"]
        assert span["reasoning_tokens"] == (call["usage"]["reasoning"] if reasoning_is_told else None), call
        assert span["streamed"] == (call["streamed"] if instrumentation.streamed else None), call
