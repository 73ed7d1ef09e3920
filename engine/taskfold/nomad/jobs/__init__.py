"""Jobs as a Nomad stores them: what people write, with all that a server adds.

`canonical` reads a job and writes it whole, by the table of `defaults` and the `rules` for what depends on other parts;
`least` goes the other way, to the shortest job that says the same; `go_floats` writes numbers as Go does.
"""
