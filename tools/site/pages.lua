-- Markdown pages (a JSON list of texts on stdin) to HTML: a JSON list of {html, notes}. One process for any number of pages.
local from = 'markdown+lists_without_preceding_blankline-fancy_lists-smart'
local options = pandoc.WriterOptions { html_math_method = 'mathml', wrap_text = 'none', highlight_method = 'none' }
local pages = {}
for i, text in ipairs(pandoc.json.decode(io.read('a'), false)) do
  local read, document = pandoc.log.silence(pandoc.read, text, from)
  local written, html = pandoc.log.silence(pandoc.write, document, 'html5', options)
  pages[i] = { html, { read, written } }
end
io.write(pandoc.json.encode(pages))
