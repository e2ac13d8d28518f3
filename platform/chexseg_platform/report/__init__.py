"""The report: a comparison, a sweep, or several, as one HTML page that needs nothing else.

`find` turns what a person names into artifacts, `content` reads their numbers, `numbers`,
`figures` and `gallery` make what is shown, `page` writes it. Nothing here knows Ray, and nothing
imports torch; what does is in `stages/report.py`.
"""
