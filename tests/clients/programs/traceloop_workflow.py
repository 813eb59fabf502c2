"""An application with OpenLLMetry's traceloop-sdk: a workflow with tasks, an agent and a tool.

TRACELOOP_BASE_URL tells where the spans go; the first argument is the provider's URL.
"""

import sys

from traceloop.sdk import Traceloop
from traceloop.sdk.decorators import agent, task, tool, workflow

import calls

Traceloop.init(app_name="clients-traceloop", resource_attributes={"deployment.environment.name": "test"})
Traceloop.set_association_properties({"user_id": "u-17", "session_id": "s-4"})
LLM = calls.client(sys.argv[1])


@tool(name="look_up")
def look_up():
    calls.embeddings(LLM)


@agent(name="researcher")
def researcher():
    look_up()
    calls.tools(LLM)


@task(name="answer")
def answer():
    calls.chat(LLM)
    calls.stream(LLM)
    calls.dear_and_cheap(LLM)


@task(name="fail")
def fail():
    calls.errors(LLM)


@workflow(name="support_case")
def support_case():
    researcher()
    answer()
    fail()


support_case()
