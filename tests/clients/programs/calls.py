"""The LLM calls that every instrumented program makes: what real applications do, good and bad.

The model answers come from the fake provider; a directive in a prompt, such as `[[fake status=429]]`, steers it.
"""

import openai

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client(base_url):
    """An OpenAI client that never retries: one call is one request to the provider."""
    return openai.OpenAI(base_url=base_url, api_key="sk-none", max_retries=0)


def user(text):
    return [{"role": "user", "content": text}]


def chat(llm):
    llm.chat.completions.create(model="gpt-4o-mini", messages=user("Write a haiku about tracing."), temperature=0.2)
    llm.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "system", "content": "You are brief. Schön."}, *user("Why was the service slow? 🐢")],
        max_tokens=200,
    )
    llm.chat.completions.create(model="gpt-4o-mini", messages=user("Name a colour."), n=3)


def stream(llm):
    for options in ({"stream_options": {"include_usage": True}}, {}):
        chunks = llm.chat.completions.create(
            model="gpt-4o-mini", messages=user(f"Stream it, {len(options)}."), stream=True, **options
        )
        assert sum(1 for _ in chunks) > 1


def tools(llm):
    messages = user("What is the weather in Paris?")
    answer = llm.chat.completions.create(model="gpt-4.1", messages=messages, tools=[WEATHER_TOOL]).choices[0].message
    call = answer.tool_calls[0]
    messages += [
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, light rain"},
    ]
    llm.chat.completions.create(model="gpt-4.1", messages=messages, tools=[WEATHER_TOOL])


def errors(llm):
    for status in (429, 500, 400):
        try:
            llm.chat.completions.create(model="gpt-4o", messages=user(f"Fail. [[fake status={status}]]"))
        except openai.APIStatusError as error:
            assert error.status_code == status
        else:
            raise AssertionError(f"status {status} raised nothing")


def dear_and_cheap(llm):
    """Cached input, reasoning, a model nobody has a price for, an answer without usage."""
    llm.chat.completions.create(
        model="gpt-4.1", messages=user("Long story. [[fake prompt=4096 cached=3072 completion=100]]")
    )
    llm.chat.completions.create(
        model="o3-mini", messages=user("Think. [[fake prompt=40 completion=900 reasoning=832]]")
    )
    llm.chat.completions.create(model="house-model-7b", messages=user("Hello, house."))
    llm.chat.completions.create(model="gpt-4o-mini", messages=user("Say nothing of usage. [[fake usage=off]]"))


def embeddings(llm):
    llm.embeddings.create(model="text-embedding-3-small", input=["first document", "second document"])
    llm.embeddings.create(model="text-embedding-3-large", input="[[fake prompt=500]] a third one")


def all_calls(llm):
    for part in (chat, stream, tools, errors, dear_and_cheap, embeddings):
        part(llm)
