"""Which code is running is told by its commit, where the commit is its own."""

import shutil
import subprocess

import pytest

from zoo import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package in a repository of its own, with one commit."""
    folder = tmp_path / "tree" / "zoo"
    (tmp_path / "tree" / "results").mkdir(parents=True)
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder.parent / "results" / "table.csv").write_text("a\n")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder.parent, check=True)
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    return folder


def test_a_commit_says_whether_code_has_changed_since(package):
    words = ["git", "rev-parse", "--short", "HEAD"]
    head = subprocess.run(words, cwd=package, capture_output=True, text=True, check=True)
    assert provenance.commit() == head.stdout.strip()
    (package.parent / "results" / "table.csv").write_text("a\n1\n")
    assert provenance.commit() == head.stdout.strip(), "a table is no code"
    (package / "new.py").write_text("")
    assert provenance.commit() == head.stdout.strip() + "+"


def test_the_commit_of_a_repository_around_it_is_not_its_own(package, monkeypatch):
    within = package.parent / "site-packages" / "zoo"
    shutil.copytree(package, within)
    monkeypatch.setattr(provenance, "PACKAGE", within)
    assert provenance.commit() is None


def test_there_is_no_commit_without_git(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None
