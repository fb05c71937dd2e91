"""A worker in another language, from the .proto alone: Node drives the plain way."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.processes import RunningServer

PROTO_ROOT = Path(__file__).parents[2] / "packages" / "quorra-proto" / "proto"
PACKAGES = ("@grpc/grpc-js", "@grpc/proto-loader")
WORKER = """
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const [address, key, queue, root] = process.argv.slice(2);
const { quorra } = grpc.loadPackageDefinition(
  loader.loadSync("quorra_proto/v1/quorra.proto", { includeDirs: [root], keepCase: true, longs: Number }));
const client = new quorra.v1.WorkerService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("x-api-key", key);
const report = (method, message) => new Promise((resolve, reject) =>
  client[method](message, metadata, (error, answer) => (error ? reject(error) : resolve(answer.acknowledged))));
const call = client.LeaseJobs({ worker_id: "node-1", queue, max_jobs: 10, wait_seconds: 5 }, metadata);
const work = [];
call.on("data", (job) => {
  const payload = JSON.parse(job.payload.toString());
  const lease = { job_id: job.id, worker_id: "node-1", lease_id: job.lease_id };
  work.push(payload.ok
    ? report("AckJob", { ...lease, success: true, result: Buffer.from(JSON.stringify({ doubled: payload.n * 2 })) })
    : report("NackJob", { ...lease, error_message: "node says no", non_retryable: true }));
});
call.on("error", (error) => { console.error(error); process.exit(1); });
call.on("end", async () => { console.log(JSON.stringify(await Promise.all(work))); client.close(); });
"""


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("npm") and shutil.which("node")), reason="npm is not installed")
def test_a_node_worker_runs_jobs_from_the_proto_alone(
    shared_server: RunningServer, api: httpx.Client, queue_name: str, tmp_path: Path
) -> None:
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *PACKAGES]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path, timeout=120)
    (tmp_path / "worker.js").write_text(WORKER)
    good, bad = (
        api.post("/v1/jobs", json={"type": "t", "queue": queue_name, "payload": payload}).json()["id"]
        for payload in ({"ok": True, "n": 21}, {"ok": False})
    )

    command = ["node", "worker.js", shared_server.grpc_address, shared_server.api_key, queue_name, str(PROTO_ROOT)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    assert (0, "") == (run.returncode, run.stderr)
    assert [True, True] == json.loads(run.stdout)
    done, dead = api.get(f"/v1/jobs/{good}").json(), api.get(f"/v1/jobs/{bad}").json()
    assert ("succeeded", 1, {"doubled": 42}) == (done["status"], done["attempts"], done["result"])
    assert ("dead", "node says no") == (dead["status"], dead["last_error"])
