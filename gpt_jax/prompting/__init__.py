"""Ways to use a model that answers in text: a row of "State of GPT" each.

A strategy is a generator: it yields what it asks (`strategy.Ask`), is sent the completions, and
returns its answer. It sees no parameters and no mesh, and `strategy.answer_all` asks for many
questions at once, whatever answers: a run folder, a model from elsewhere, a server.
"""
