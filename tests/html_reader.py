"""Reads a page: what is open, every id and reference, and the text."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br"}


LOADING = {"src", "srcset", "poster", "data", "background", "action"}


class Reader(HTMLParser):
    """Tags that are open, all ids, all references, and the text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.references, self.words = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def note(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in LOADING or key.endswith("href"):
                self.references.append(value)
            self.references += re.findall(r"url\((.*?)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.words.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader
