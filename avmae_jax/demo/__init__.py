"""Shows on a page what a model hears and sees in files that people drop there; `page` and `server` are the only gradio."""
