"""Objects are written whole and read whole, whatever the network does; what cannot be done is said."""

import re
import shutil

import pytest
import torch
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from stages.core import hashing
from stages.io import artefacts, places, shards, storage
from stages.io.storage import StorageError, Store, TransientStorageError
from tests import s3

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


@pytest.fixture(scope="module")
def network():
    with pytest.MonkeyPatch.context() as patch, s3.server("team") as endpoint:
        network = s3.Network(endpoint)
        patch.setenv("AWS_ENDPOINT_URL_S3", network.endpoint)
        storage._connected.cache_clear()
        yield network
        network.close()
    storage._connected.cache_clear()


@pytest.fixture
def store(network, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    network.fault("", 0)
    network.requests.clear()
    return Store(f"s3://team/{tmp_path.name}")


def file_with(folder, content, name="a.bin"):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(content)
    return {"path": name, "bytes": len(content), "sha256": hashing.sha256(content)}


LARGE = bytes(range(256)) * 8192
"""Two MiB: large enough to be looked for before it is sent."""


def test_an_object_comes_back(store, tmp_path):
    entry = file_with(tmp_path, LARGE)
    assert store.missing([entry]) == [entry]
    store.put(tmp_path / "a.bin", entry)
    assert store.read(entry) == LARGE
    assert store.missing([entry]) == []


def test_an_object_is_sent_once(store, network, tmp_path):
    entry = file_with(tmp_path, LARGE)
    store.put(tmp_path / "a.bin", entry)
    store.put(tmp_path / "a.bin", entry)
    assert len([request for request in network.requests if request.startswith("PUT")]) == 1


@pytest.mark.parametrize("kind", ["slow", "500", "503", "reset"])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_fault_that_passes_is_tried_again(store, network, tmp_path, kind, method):
    entry = file_with(tmp_path, LARGE)
    if method == "GET":
        store.put(tmp_path / "a.bin", entry)
    network.fault(kind, 2 if kind != "slow" else 1, f"^{method} .*objects")
    store.put(tmp_path / "a.bin", entry)
    assert store.read(entry) == LARGE
    assert network.struck > 0


@pytest.mark.parametrize("kind", ["cut", "half"])
def test_half_an_object_is_asked_for_again(store, network, tmp_path, kind):
    entry = file_with(tmp_path, LARGE)
    store.put(tmp_path / "a.bin", entry)
    network.fault(kind, 1, "^GET .*objects")
    assert store.read(entry) == LARGE
    assert network.struck == 1


def test_half_an_object_is_never_taken_for_whole(store, network, tmp_path):
    entry = file_with(tmp_path, LARGE)
    store.put(tmp_path / "a.bin", entry)
    network.fault("half", 1000, "^GET .*objects")
    with pytest.raises(StorageError, match=r"altered, 1048576 bytes .* a\.bin should be"):
        store.fetch(entry, tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()
    assert network.struck == storage.ATTEMPTS


def test_half_an_upload_is_sent_anew(store, network, tmp_path):
    entry = file_with(tmp_path, LARGE)
    half = file_with(tmp_path / "half", LARGE[: len(LARGE) // 2])
    storage.filesystem().put_file(str(tmp_path / "half" / half["path"]), store.url(entry["sha256"]))
    assert store.missing([entry]) == [entry]
    store.put(tmp_path / "a.bin", entry)
    assert store.read(entry) == LARGE


@pytest.mark.parametrize("kind", ["500", "503", "reset"])
def test_tries_are_bounded_and_the_end_is_clear(store, network, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(storage.filesystem(), "retries", 2)
    # How often it is tried is what counts here, not the seconds between: up to fifteen.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.05)
    entry = file_with(tmp_path, b"small")
    network.fault(kind, 10**6)
    with pytest.raises(TransientStorageError, match=rf"no good answer from {network.endpoint} .*storage\.endpoint"):
        store.put(tmp_path / "a.bin", entry)
    assert 1 < network.struck < 50


def test_an_expired_token_is_named(store, network, tmp_path):
    entry = file_with(tmp_path, LARGE)
    network.fault("expired", 10**6)
    with pytest.raises(StorageError, match=r"credentials have expired .*renew them") as refusal:
        store.put(tmp_path / "a.bin", entry)
    assert not isinstance(refusal.value, TransientStorageError), "nobody need try that again"


@pytest.mark.parametrize(
    ("status", "code", "raised"),
    [
        (400, "MalformedXML", StorageError),
        (400, "RequestTimeout", TransientStorageError),
        (403, "AccessDenied", StorageError),
        (409, "OperationAborted", TransientStorageError),
        (429, "TooManyRequests", TransientStorageError),
        (503, "SlowDown", TransientStorageError),
    ],
)
def test_what_may_pass_is_told_by_the_status_not_by_the_words(status, code, raised):
    answer = {"Error": {"Code": code, "Message": "expired? no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(StorageError) as refusal, storage.speaking("s3://team/x"):
        raise translate_boto_error(ClientError(answer, "PutObject"))
    assert type(refusal.value) is raised
    assert "have expired" not in str(refusal.value)


def test_a_wrong_bucket_is_named(network, tmp_path):
    network.fault("", 0)
    with pytest.raises(StorageError, match=r"s3://nobodys/x: not there .*correct storage\.root"):
        Store("s3://nobodys/x").put(tmp_path / "a.bin", file_with(tmp_path, LARGE))


def test_missing_credentials_are_named(network, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    storage._connected.cache_clear()
    with pytest.raises(StorageError, match="no AWS credentials; set AWS_ACCESS_KEY_ID"):
        Store("s3://team/x").put(tmp_path / "a.bin", file_with(tmp_path, LARGE))
    storage._connected.cache_clear()


@pytest.mark.parametrize("root", ["team/x", "file:///tmp", "s3://"])
def test_a_root_that_is_no_root_is_refused(root):
    with pytest.raises(ValueError, match="must be s3://bucket/prefix"):
        Store(root)


def test_a_document_is_written_by_one(store):
    assert store.write_document("work/x.json", {"a": 1}, exclusively=True)
    assert not store.write_document("work/x.json", {"a": 2}, exclusively=True)
    assert store.read_document("work/x.json") == {"a": 1}
    store.remove("work")
    assert store.read_document("work/x.json") is None


def test_a_unit_resumes_from_the_store_and_is_done_once(store, network):
    place, calls = f"{store.root}/work/teacher/k/all", []

    def half(folder, sink):
        (folder / "resume").mkdir(exist_ok=True)
        (folder / "resume" / "state").write_text("half-way")
        sink(1, {})
        raise RuntimeError("the machine went away")

    def rest(folder, sink):
        calls.append((folder / "resume" / "state").read_text())
        (folder / "result.txt").write_text("done")
        sink(2, {})

    with pytest.raises(RuntimeError, match="went away"):
        places.compute(place, half, lambda *_: None)
    assert not places.sealed(place)
    places.compute(place, rest, lambda *_: None)
    places.compute(place, rest, lambda *_: None)
    assert calls == ["half-way"]
    assert places.sealed(place)
    assert (places.view(place) / "result.txt").read_text() == "done"
    assert store.read_document("work/teacher/k/all/resume.json") is None


def unit(place, number):
    def body(folder, sink):
        shards.write(folder / shards.name(number), {"noise": torch.full((2, 3), float(number))})
        (folder / "prompts.json").write_text('["a"]')

    places.compute(str(place), body, lambda *_: None)


def test_an_artefact_has_one_digest_wherever_its_files_lie(store, tmp_path):
    digests = []
    for where in (str(tmp_path / "work"), f"{store.root}/work/trajectories/k"):
        for number in range(2):
            unit(f"{where}/{number}", number)
        build, out = tmp_path / "build", tmp_path / "data" / f"trajectories{len(digests)}"
        build.mkdir()
        for number in range(2):
            artefacts.adopt(places.view(f"{where}/{number}"), build)
        if storage.is_url(where):
            places.check_out(artefacts.commit_to(store, build, stage="trajectories"), out)
            assert not list(out.glob("*.safetensors")), "the bulk stays in the store"
        else:
            artefacts.commit(build, out, stage="trajectories")
        digests.append(artefacts.digest(out))
        artefacts.verify(out)
        seen = [shard.read()["noise"] for shard in shards.folder(places.view(str(out)))]
        assert [each[:, 0].tolist() for each in seen] == [[0, 0], [1, 1]]
        shutil.rmtree(build, ignore_errors=True)
    assert digests[0] == digests[1]


def test_a_local_artefact_is_published_for_others(store, tmp_path):
    build, out = tmp_path / "build", tmp_path / "data" / "teacher"
    build.mkdir()
    (build / "model.safetensors").write_bytes(LARGE)
    artefacts.commit(build, out, stage="teacher")
    url = places.publish(store, out)
    assert re.fullmatch(rf"{store.root}/objects/../[0-9a-f]{{64}}", url)
    assert artefacts.digest_of(places.manifest_of(url)) == artefacts.digest(out)
    assert (places.view(url) / "model.safetensors").read_bytes() == LARGE


def test_an_object_that_went_missing_is_found_before_it_is_needed(store, tmp_path):
    unit(f"{store.root}/work/t/0", 0)
    build, out = tmp_path / "build", tmp_path / "data" / "trajectories"
    build.mkdir()
    artefacts.adopt(places.view(f"{store.root}/work/t/0"), build)
    manifest = artefacts.commit_to(store, build, stage="trajectories")
    places.check_out(manifest, out)
    [lost] = [entry for entry in manifest["files"] if entry["path"].startswith("shard-")]
    store.remove(f"objects/{lost['sha256'][:2]}/{lost['sha256']}")
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors: its object is not in s3://.*dvc repro -f"):
        artefacts.verify(out)
