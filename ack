Traceback (most recent call last):
  File "/tmp/an_server.py", line 22, in <module>
    w=shlex.split(rest)
      ^^^^^^^^^^^^^^^^^
  File "/root/.pyenv/versions/3.11.7/lib/python3.11/shlex.py", line 315, in split
    return list(lex)
           ^^^^^^^^^
  File "/root/.pyenv/versions/3.11.7/lib/python3.11/shlex.py", line 300, in __next__
    token = self.get_token()
            ^^^^^^^^^^^^^^^^
  File "/root/.pyenv/versions/3.11.7/lib/python3.11/shlex.py", line 109, in get_token
    raw = self.read_token()
          ^^^^^^^^^^^^^^^^^
  File "/root/.pyenv/versions/3.11.7/lib/python3.11/shlex.py", line 191, in read_token
    raise ValueError("No closing quotation")
ValueError: No closing quotation
DONE 0.0
