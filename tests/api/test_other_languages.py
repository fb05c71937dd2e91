"""A worker in another language works from the `.proto` alone; and the `.proto` only ever grows."""

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.processes import RunningServer

ROOT = Path(__file__).resolve().parents[2]
PROTO_ROOT = ROOT / "packages/quorra-proto/proto"
NPM = shutil.which("npm")
NODE_WORKER = """
const grpc = require('@grpc/grpc-js'), loader = require('@grpc/proto-loader');
const [address, key, queue, root] = process.argv.slice(2);
const definition = loader.loadSync('quorra_proto/v1/quorra.proto', { includeDirs: [root], keepCase: true });
const { WorkerService } = grpc.loadPackageDefinition(definition).quorra.v1;
const client = new WorkerService(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('x-api-key', key);
const call = client.LeaseJobs({ worker_id: 'node-1', queue, max_jobs: 10, wait_seconds: 10 }, metadata);
call.on('data', (job) => {
  const payload = JSON.parse(job.payload.toString());
  const report = { job_id: job.id, worker_id: 'node-1', lease_id: job.lease_id };
  const answer = (error, reply) => console.log(JSON.stringify({ error: error && error.message, ...reply }));
  if (payload.good) client.AckJob({ ...report, success: true, result: Buffer.from('"from node"') }, metadata, answer);
  else client.NackJob({ ...report, error_message: 'node says no' }, metadata, answer);
});
call.on('error', (error) => { console.error(error); process.exit(1); });
"""

needs_npm = pytest.mark.skipif(NPM is None, reason="npm is not installed; Node and buf come by npm")


def _npm_install(folder: Path, *packages: str) -> None:
    assert NPM is not None
    subprocess.run(
        [NPM, "install", "--silent", "--no-audit", "--no-fund", *packages], cwd=folder, check=True, timeout=240
    )


@needs_npm
def test_a_worker_in_javascript_leases_acks_and_nacks_from_the_proto_alone(
    shared_server: RunningServer, api: httpx.Client, queue_name: str, tmp_path: Path
) -> None:
    _npm_install(tmp_path, "@grpc/grpc-js", "@grpc/proto-loader")
    (tmp_path / "worker.js").write_text(NODE_WORKER)
    jobs = [{"type": "t", "payload": {"good": good}, "queue": queue_name, "max_retries": 0} for good in (True, False)]
    ids = [job["id"] for job in api.post("/v1/jobs/batch", json={"jobs": jobs}).json()["jobs"]]

    done = subprocess.run(
        ["node", "worker.js", shared_server.grpc_address, shared_server.api_key, queue_name, str(PROTO_ROOT)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    good, bad = (api.get(f"/v1/jobs/{job_id}").json() for job_id in ids)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert 0 == done.returncode, done.stderr
    assert [True, True] == [answer["acknowledged"] for answer in answers]
    assert ("succeeded", "from node") == (good["status"], good["result"])
    assert ("dead", "node says no") == (bad["status"], bad["last_error"])


@needs_npm
def test_the_proto_is_clean_and_breaks_nothing_that_was_released(tmp_path: Path) -> None:
    _npm_install(tmp_path, "@bufbuild/buf")
    buf = tmp_path / "node_modules/.bin/buf"
    package = ROOT / "packages/quorra-proto"
    released = package / "released.binpb"

    lint = subprocess.run([buf, "lint"], cwd=package, capture_output=True, text=True, check=False)
    breaking = subprocess.run(
        [buf, "breaking", "--against", str(released)], cwd=package, capture_output=True, text=True, check=False
    )

    assert (0, "") == (lint.returncode, lint.stdout)
    assert (0, "") == (breaking.returncode, breaking.stdout)
