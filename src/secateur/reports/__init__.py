"""Reports: what a run, a result or a comparison has to say, as one file in a format of the user's choice.

    thing --subjects/--> Report --sections/--> Sections: tables, charts --formats/--> HTML, Markdown, text
                         Report --------------------------------------------formats/--> JSON

`Report` is data. A subject is a file that knows one kind of thing, a section a file that shows one part of a
report, a format a file that lays out sections whatever they show. Matplotlib is imported when a picture is
drawn.
"""
