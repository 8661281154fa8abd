"""The examples that users bring along run as they are; see `examples.md`."""

import ast
import asyncio
import inspect
import logging
import re
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg_nb.mpreg import MPREGClientAPI, MPREGServer, MPREGSettings, RPCCommand
from tests.support.mpreg_servers import (
    clustered,
    free_port,
    served,
    serving,
    until_known,
)

TEXT = (Path(__file__).parent / "examples.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n\n```python\n(.*?)```", TEXT, re.M | re.S))


async def run(text: str, **names: Any) -> dict[str, Any]:
    """Execute an example as it is, where `names` are defined."""
    flag = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(text, "<example>", "exec", flags=flag)
    space: dict[str, Any] = {
        "asyncio": asyncio,
        "MPREGServer": MPREGServer,
        "MPREGSettings": MPREGSettings,
        "MPREGClientAPI": MPREGClientAPI,
        "RPCCommand": RPCCommand,
        **names,
    }
    ended = types.FunctionType(code, space)()
    if inspect.iscoroutine(ended):
        await ended
    return space


async def test_a_chain_of_commands() -> None:
    def process_data(data: list[int]) -> dict[str, Any]:
        return {"rows": data}

    def analyze(processed: dict[str, Any]) -> dict[str, Any]:
        return {"mean": sum(processed["rows"]) / len(processed["rows"])}

    def store(analysis: dict[str, Any]) -> str:
        return f"stored {analysis['mean']}"

    def report(*results: Any) -> list[Any]:
        return list(results)

    commands = {
        "process_data": process_data,
        "analyze": analyze,
        "store": store,
        "report": report,
    }
    async with served(commands) as (_, client):
        space = await run(
            EXAMPLES["a chain of commands"], client=client, raw_data=[1, 2, 3]
        )

    assert space["workflow"] == {
        "final": [{"rows": [1, 2, 3]}, {"mean": 2.0}, "stored 2.0"]
    }


async def test_routing_by_resources() -> None:
    def at(place: str) -> Callable[[Any], list[Any]]:
        return lambda value: [place, value]

    async with (
        clustered(
            {
                "gateway": ((), {}),
                "gpu-1": ({"gpu", "ml-models"}, {"train_model": at("gpu-1")}),
                "gpu-2": ({"gpu"}, {"train_model": at("gpu-2")}),
                "cpu-1": ({"cpu-intensive"}, {"heavy_compute": at("cpu-1")}),
                "db-1": ({"database", "storage"}, {"store_results": at("db-1")}),
            }
        ) as servers,
        MPREGClientAPI(servers["gateway"].url) as client,
    ):
        space = await run(
            EXAMPLES["routing by resources"],
            client=client,
            model_data="m",
            dataset="d",
            combined_data="c",
        )

    assert space["gpu_result"] == ["gpu-1", "m"]
    assert space["cpu_result"] == ["cpu-1", "d"]
    assert space["db_result"] == ["db-1", "c"]


async def test_a_cluster_that_finds_itself() -> None:
    text = EXAMPLES["a cluster that finds itself"]
    for port in ("9001", "9002", "9003"):
        text = text.replace(port, str(free_port()))

    space = await run(text)
    servers = [space[f"server{number}"] for number in (1, 2, 3)]
    for number, server in enumerate(servers, 1):
        server.register_command(f"who_{number}", lambda number=number: number)

    functions = {"who_1", "who_2", "who_3"}
    # The others are up before the one that they join by.
    async with serving(*reversed(servers)):
        for server in servers:
            async with MPREGClientAPI(server.url) as client:
                await until_known(client, functions, nodes=3)
                assert await client.call("who_1", locs=frozenset(["gpu"])) == 1
                assert await client.call("who_2", locs=frozenset(["cpu"])) == 2
                assert await client.call("who_3", locs=frozenset(["db"])) == 3


async def test_many_calls_at_once() -> None:
    meeting = asyncio.Barrier(3)  # none goes on before all three run

    async def met(value: int) -> int:
        async with meeting:
            return value * 10

    async with (
        clustered(
            {
                "one": ({"server_a"}, {"function_a": met}),
                "two": ({"server_b"}, {"function_b": met}),
                "three": ({"server_c"}, {"function_c": met}),
            }
        ) as servers,
        MPREGClientAPI(servers["one"].url) as client,
    ):
        space = await run(
            EXAMPLES["many calls at once"], client=client, data_a=1, data_b=2, data_c=3
        )

    assert space["results"] == [10, 20, 30]


async def test_the_trap() -> None:
    metrics = [{"gpu_result": "data"}, {"cpu_result": "data"}]

    with pytest.raises(TypeError, match="unhashable type: 'dict'"):
        await run(EXAMPLES["the trap"], metrics=metrics)


async def test_a_function_that_takes_either() -> None:
    space = await run(EXAMPLES["a function that takes either"])
    commands = {
        "analytics": space["analytics_safe"],
        "make": lambda name: {name: "data"},
    }

    async with served(commands) as (_, client):
        plain = await client.call("analytics", "test", ["metric1", "metric2"])
        resolved = await client.request(
            [
                RPCCommand(name="gpu", fun="make", args=("gpu",)),
                RPCCommand(name="cpu", fun="make", args=("cpu",)),
                RPCCommand(name="both", fun="analytics", args=("test", ["gpu", "cpu"])),
            ]
        )

    assert plain == space["analytics_safe"]("test", ["metric1", "metric2"])
    assert resolved["both"]["metrics"] == [{"gpu": "data"}, {"cpu": "data"}]


async def pipeline(client: MPREGClientAPI | None = None) -> dict[str, Any]:
    """Run the example of the pipeline; without a client, what it defines."""
    text = EXAMPLES["a data pipeline"]
    if client is None:
        text = text.partition("# Example usage")[0]
    return await run(text, client=client)


async def test_a_data_pipeline() -> None:
    aggregate_results = (await pipeline())["aggregate_results"]

    def run_inference(model: str, given: str) -> dict[str, str]:
        return {"result": f"{model} on {given}"}

    def heavy_compute(given: str, rounds: int) -> dict[str, Any]:
        return {"data": [given] * (rounds // 50)}

    def query_database(query: str) -> dict[str, str]:
        return {"rows of": query}

    async with (
        clustered(
            {
                "gpu": ({"gpu"}, {"run_inference": run_inference}),
                "cpu": ({"cpu"}, {"heavy_compute": heavy_compute}),
                "db": (
                    {"db"},
                    {
                        "query_database": query_database,
                        "aggregate_results": aggregate_results,
                    },
                ),
            }
        ) as servers,
        MPREGClientAPI(servers["gpu"].url) as client,
    ):
        space = await pipeline(client)

    report = space["workflow"]["final_report"]
    assert list(space["workflow"]) == ["final_report"]
    assert report["total_sources"] == 3
    assert report["source_types"] == ["resolved_object"] * 3
    assert report["aggregated_data"] == [
        "ModelA on input",
        ["input", "input"],
        "complex_result_2",
    ]


async def test_a_function_with_types() -> None:
    function = (await run(EXAMPLES["a function with types"]))["process_workflow_data"]
    commands = {
        "process_workflow_data": function,
        "made": lambda: {"processed_data": [1]},
        "options": lambda: ["fast"],
    }

    async with served(commands) as (_, client):
        ended = await client.request(
            [
                RPCCommand("made", "made"),
                RPCCommand("chosen", "options"),
                RPCCommand(
                    name="all",
                    fun="process_workflow_data",
                    args=("w-1", ["plain", "made", 7]),
                    kwargs={"options": "chosen"},
                ),
            ]
        )

    assert ended["all"]["processed_inputs"] == ["plain", [1], "7"]
    assert ended["all"]["options"] == {"resolved_options": "['fast']"}


async def test_tests_of_such_functions() -> None:
    aggregate_results = (await pipeline())["aggregate_results"]
    text = EXAMPLES["tests of such functions"]

    suite = (await run(text, aggregate_results=aggregate_results))[
        "TestDependencySafeFunctions"
    ]
    tests = [name for name in vars(suite) if name.startswith("test_")]
    for name in tests:
        getattr(suite(), name)()

    assert len(tests) == 5


async def test_what_a_failure_says(caplog: pytest.LogCaptureFixture) -> None:
    lines = [line[2:] for line in EXAMPLES["what a failure says"].splitlines()[2:4]]
    promised = " ".join(line.strip() for line in lines).removeprefix("ERROR: ")
    metrics = [{"gpu_result": "data"}]
    definition = EXAMPLES["the trap"].partition("# Direct call")[0]
    analytics = (await run(definition))["analytics_bad"]

    async with served({"analytics": analytics}) as (_, client):
        asked = time.monotonic()
        with caplog.at_level(logging.ERROR), pytest.raises(TypeError) as caught:
            await client.call("analytics", "test", metrics)

    assert time.monotonic() - asked < 20  # and no timeout of half a minute
    assert str(caught.value) == promised
    assert caplog.messages == [promised]


def test_every_example_has_its_test() -> None:
    here = {
        name.removeprefix("test_").replace("_", " ")
        for name in globals()
        if name.startswith("test_")
    }

    assert set(EXAMPLES) <= here
