"""Foreign names come through every format as they are, whatever they hold."""

import json
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_samples import EMPTY
from test_html import Page

from secateur.reports.content import GroupRow, ModelRow
from secateur.reports.formats import formats
from secateur.reports.formats.json import parse
from secateur.reports.formats.text import WIDTH
from secateur.reports.section import Section, Values

letters = st.sampled_from("<>|`*_&$\\[](){}#~-+.!'\"aβ数0/")
words = st.text(letters, min_size=1, max_size=40) | st.text(letters, min_size=200, max_size=300)
shown = words.filter(lambda name: any(char.isalnum() for char in name))


def foreign(name):
    return replace(
        EMPTY,
        title=name,
        models=(ModelRow(name, 0.5, 10, 10, None, None, name, run=name),),
        groups=(GroupRow(name, 4, 2, "pruned", name),),
        notes=(name,),
        more=(Section("own", name, (name,), (Values(name, (name,), "code"),), items=(name,), place=5),),
    )


@settings(max_examples=40, deadline=None)
@given(shown)
def test_html_shows_names_and_never_takes_them_for_markup(name):
    plain, page = Page(formats["html"](foreign("name"))), Page(formats["html"](foreign(name)))
    assert page.tags == plain.tags
    assert page.shown.count(name) >= plain.shown.count("name")


@settings(max_examples=40, deadline=None)
@given(shown)
def test_markdown_shows_names_as_they_are(name):
    def page_of(shown):
        return Page(MarkdownIt("commonmark").enable("table").render(formats["markdown"](foreign(shown))))

    plain, page = page_of("name"), page_of(name)
    assert page.tags == plain.tags
    assert page.shown.count(name) >= plain.shown.count("name")


@settings(max_examples=40, deadline=None)
@given(shown)
def test_text_keeps_every_letter_of_a_name(name):
    text = formats["text"](foreign(name))
    letters_of = "".join(text.split())
    assert letters_of.startswith(name)
    tables = [line for line in text.splitlines() if "  " in line]
    assert all(len(line) <= WIDTH for line in tables)


@settings(max_examples=40, deadline=None)
@given(shown)
def test_json_comes_back_as_it_was(name):
    text = formats["json"](foreign(name))
    assert json.loads(text)["title"] == name
    assert parse(text) == foreign(name)
