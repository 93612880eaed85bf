"""What was downloaded in place of a model file is called by its name, never damaged."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import mtlpar
from mtlpar.cli import main

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4096\n"


def _zip(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pt"))
    return stream.getvalue()


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


# Torch has one message for most of these, and the advice to run whatever code is in the file.
_FOREIGN = {
    "pointer": (_POINTER, "is a pointer of Git LFS .*; fetch it with git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "is a web page .*; download the file itself, by its raw"),
    "store": (b'<?xml version="1.0"?>\n<Error><Code>', "is a server's error in XML"),
    "empty": (b"", "is empty, expected a model file"),
    "text": (b'{"message": "Not Found"}', "begins with .*Not Found.*expected a model file"),
    "release": (_zip("v1/card.md", "v1/model.pt"), "a zip archive of v1/card.md.*name v1/model.pt"),
    "arrays": (_zip("energy.npy"), "is a zip archive of energy.npy, expected a model file"),
    "tar": (_tar(), "is a tar archive, expected a model file"),
    "script": (_zip("m/data.pkl", "m/constants.pkl"), "is a program of TorchScript or torch.expor"),
    "export": (_zip("m/archive_format", "m/in/model.pt"), "is a program of TorchScript or torch.e"),
    "pickle": (pickle.dumps({"state": 1}), "is a Python pickle, expected a model file"),
    "module": (_saved(torch.nn.Linear(1, 1)), "more than plain values, as whole modules of other"),
    "state": (_saved({"w": torch.zeros(1)}), "not a model file of mtlpar: it holds w and no form"),
    "tensor": (_saved(torch.zeros(1)), "not a model file of mtlpar: it holds a Tensor and no form"),
}


@pytest.mark.parametrize("kind", _FOREIGN)
def test_what_is_no_model_file_is_called_by_its_name(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = _FOREIGN[kind]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} .*{message}") as caught:
        mtlpar.Calculator(path)
    assert "weights_only" not in str(caught.value)
    if kind != "module":
        assert "damaged" not in str(caught.value)
    assert main(["info", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{}", "{}", "--out", "out.extxyz"],
        ["check", "{}"],
        ["card", "{}"],
        ["finetune", "{}", "{}", "--level", "PBE", "--out", "tuned"],
        ["distill", "{}", "--out", "student.pt", "--structures", "{}"],
        ["convert", "{}", "--format", "package"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_that_reads_a_model_names_a_pointer(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(_POINTER)
    assert main([word.format("model.pt") for word in command]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model.pt is a pointer of Git LFS" in said
