"""The report: comparisons, sweeps and fine-tunings as one HTML page that needs nothing else.

`find` turns what a person names into artifacts, `content` and `efficiency` read their numbers,
`numbers`, `figures` and `gallery` make what is shown, `section` and `finetuning` gather it, `page`
writes it. Nothing here knows Ray, and nothing imports torch; what does is in `stages/report.py`.
"""
