"""Hand-made templates for the comparison with Go's SDK: each corner of the language once.

A difference ever found by a generated case becomes a case here.
"""

from datetime import UTC, datetime

from packer_plugin_osc_chroot.template.engine import DECODE_DATA, Fields, Scope, StringMap
from template_reference import STARTED_AT, Case

MAP = {
    "Device": "/dev/xvdf",
    "Name": "my <image> & 'co'",
    "Empty": "",
    "N": 7,
    "Zero": 0,
    "F": 2.5,
    "T": True,
    "No": False,
    "Nil": None,
    "L": ["a", "b", 3, None, 1.5],
    "None": [],
    "Tags": StringMap(Name="web", Env="prod é"),
    "M": {"x": "1", "y": {"z": "deep"}, "n": None},
}
STRUCT = Fields(
    Device="/dev/xvdf",
    MountPath="/mnt",
    Tags=StringMap(Name="web", Env="prod"),
)
SCOPE = Scope(
    build_name="web",
    build_type="osc-chroot",
    template_path="dir/../templates/web.json",
    packer_version="1.16.0",
    user_variables={
        "a": "plain",
        "nested": "<{{user `a`}}>",
        "twice": "{{user `nested`}}",
        "broken": "{{",
        "self": "{{user `self`}}",
        "grows": "x{{user `grows`}}",
        "device": "{{.Device}}",
    },
    started_at=STARTED_AT,
)

SYNTAX = r"""
|plain|}} lone {|{% raw %} {# c #} ${x} %} #}|a{{"b"}}c|{{ "b" }}|{{- "b" -}}|a {{- "b" -}} c
{{|}}|{{}}|{{ }}|{{-}}|{{- }}|{{ -}}|{{- -}}|{{"a"}|{{"a"|{{{"a"}}}|{{{{"a"}}}}|{{ {{ }} }}|{{"{{"}}|{{"}}"}}
{{-3}}|{{- 3}}|{{-3 -}} x|x {{--3}}|{{-.Device}}|{{3-}}|{{3 -}}  x|{{3 - }}|{{3 -3}}
{{/* c */}}|{{- /* c */ -}}|a {{- /* c */ -}} b|{{ /* c */ }}|{{/* c */ 1}}|{{/* c }}|{{/* c */-}}|{{/**/}}|{{1 /* c */}}|{{/*/}}
{{"a" "b"}}|{{1 2}}|{{true 1}}|{{. 1}}|{{nil}}|{{nil 1}}|{{(nil)}}|{{print nil}}|{{"a" | nil}}|{{1 | 2}}|{{1 | .}}|{{"a" | print | print}}
{{print "a" |}}|{{| print "a"}}|{{print | | print}}|{{"a" || print}}|{{print "a" | }}|{{.Device|}}|{{$x := 1 |}}{{$x}}
{{print(1)}}|{{print (1)}}|{{(print 1)}}|{{((print 1))}}|{{(((1)))}}|{{(1) (2)}}|{{(1)(2)}}|{{()}}|{{(print}}|{{print)}}|{{print (}}
{{print ("a" | print "b")}}|{{(1).x}}|{{("a").Device}}|{{(.Device).x}}|{{(.Tags).Name}}|{{(.Missing).x.y}}|{{(print).x}}|{{print.Device}}|{{if.Device}}1{{end}}
{{true}}|{{false}}|{{True}}|{{true.x}}|{{nil.x}}|{{1.x}}|{{"a".x}}|{{..}}|{{. .}}|{{.}}|{{.1}}|{{.é}}|{{.Device.}}|{{.Device .x}}|{{.Device.x}}|{{..Device}}
{{$}}|{{$.Device}}|{{$.Missing.x}}|{{$x}}|{{$x := 1}}{{$x}}|{{$x:=1}}{{$x}}|{{$x = 1}}|{{$x := 1}}{{$x = 2}}{{$x}}|{{$x := $x}}|{{$x := 1}}{{$x := print $x 2}}{{$x}}
{{$x, $y := 1}}|{{$x, := 1}}|{{$x :=}}|{{$x := }}|{{:= 1}}|{{x := 1}}|{{$x : = 1}}|{{$ := 1}}{{$}}|{{$é := 1}}{{$é}}|{{$1 := 2}}{{$1}}|{{$x := 1}}{{$x.y}}|{{$x:= .Tags}}{{$x.Name}}|{{$x := 1 2}}|{{$x := 1 | print 2}}{{$x}}|{{$x 1}}
{{print ($x := 1) $x}}|{{or 1 ($x := 2)}}{{$x}}|{{or 0 ($x := 2)}}{{$x}}|{{and 1 ($x := 2)}}{{$x}}|{{if false}}{{$x := 1}}{{else}}{{$x}}{{end}}|{{$x := 0}}{{if false}}{{$x := 1}}{{else}}{{$x}}{{end}}|{{if true}}{{$x := 1}}{{end}}{{$x}}
{{foo}}|{{if false}}{{foo}}{{end}}|{{print foo}}|{{.Device | foo}}|{{define "x"}}{{foo}}{{end}}|{{é}}|{{a-b}}|{{a_b}}|{{break}}|{{continue}}|{{end}}|{{else}}|{{range}}|{{if}}|{{with}}|{{template}}|{{define}}|{{block}}
{{if true}}|{{if true}}{{else}}|{{if true}}{{else}}{{else}}{{end}}|{{if true}}a{{else}}b{{end}}|{{if true}}a{{end}}{{end}}|{{if false}}a{{else if true}}b{{else}}c{{end}}|{{if false}}a{{else if false}}b{{else}}c{{end}}|{{if false}}{{else with .Device}}{{.}}{{end}}|{{else if true}}|{{if true}}{{else if}}{{end}}|{{if true}}a{{else foo}}{{end}}|{{if 1 2}}{{end}}|{{if $x := 1}}{{$x}}{{end}}|{{if $x := 0}}{{else}}{{$x}}{{end}}|{{if $x := 0}}{{else if $y := 3}}{{$x}}{{$y}}{{end}}|{{if $x := 0}}{{else if $y := 3}}{{end}}{{$y}}
{{with .Device}}{{.}}{{$}}{{end}}|{{with .Missing}}a{{else}}b{{end}}|{{with .Missing}}a{{else with .Device}}{{.}}{{else}}c{{end}}|{{with .Missing}}a{{else if true}}{{end}}|{{with $x := .Device}}{{$x}}{{.}}{{end}}|{{with .Tags}}{{.Name}}{{end}}|{{with 0}}{{else}}{{.}}{{end}}|{{with .M}}{{with .y}}{{.z}}{{end}}{{.x}}{{end}}
{{range .L}}<{{.}}>{{end}}|{{range .Missing}}a{{else}}b{{end}}|{{range .None}}a{{else}}b{{end}}|{{range .Tags}}{{.}},{{end}}|{{range $k, $v := .Tags}}{{$k}}={{$v}},{{end}}|{{range $v := .Tags}}{{$v}},{{end}}|{{range $i, $v := .L}}{{$i}}{{$v}}{{end}}|{{range .Device}}{{end}}|{{range 3}}{{.}}{{end}}|{{range $i := 3}}{{$i}}{{.}}{{end}}|{{range $i, $j := 3}}{{end}}|{{range 0}}a{{else}}b{{end}}|{{range -1}}a{{else}}b{{end}}|{{range 1.5}}{{end}}|{{range true}}{{end}}|{{range nil}}{{end}}|{{range index "abc" 0}}x{{end}}
{{range $i, $j}}{{end}}|{{$j := 3}}{{range $i, $j}}{{$i}}{{end}}|{{range $i, }}{{end}}|{{range $i, 3}}{{end}}|{{range $i, $j, $k := 3}}{{end}}|{{$x := 9}}{{range $x = 3}}{{end}}{{$x}}|{{$x := 9}}{{$y := 8}}{{range $x, $y = .L}}{{end}}{{$x}}{{$y}}|{{range $x = 3}}{{end}}|{{range $x := .None}}{{else}}{{$x}}{{end}}|{{range $x, $x := .L}}{{$x}}{{end}}|{{range $i, $e := .L}}{{end}}{{$i}}|{{range .M.n}}{{else}}e{{end}}
{{range .L}}{{if eq $ $}}{{end}}{{end}}|{{range 5}}{{if eq . 2}}{{break}}{{end}}{{.}}{{end}}|{{range 5}}{{if eq . 2}}{{continue}}{{end}}{{.}}{{end}}|{{range 3}}{{continue}}{{else}}b{{end}}|{{range 3}}{{break}}{{else}}b{{end}}|{{range 3}}{{else}}{{break}}{{end}}|{{range 2}}{{range 0}}{{else}}{{break}}{{end}}x{{end}}y|{{range 2}}{{range 0}}{{else}}{{continue}}{{end}}x{{end}}y|{{break 1}}|{{range 1}}{{break 1}}{{end}}|{{range 3}}{{with 1}}{{break}}{{end}}x{{end}}|{{range 3}}{{$x := .}}{{continue}}{{end}}{{$x}}|{{range 2}}{{$x := .}}{{range 2}}{{break}}{{end}}{{$x}}{{end}}|{{range 2}}{{define "x"}}{{end}}{{end}}|{{range 2}}{{block "x" .}}{{break}}{{end}}{{end}}
{{define "x"}}<{{.}}>{{end}}{{template "x" 1}}|{{template "x" 1}}{{define "x"}}<{{.}}>{{end}}|{{template "x"}}|{{define "x"}}{{.}}{{end}}{{template "x"}}|{{define "x"}}{{$}}{{end}}{{template "x" "q"}}|{{define "x"}}{{$y}}{{end}}|{{$y := 1}}{{define "x"}}{{$y}}{{end}}|{{define "x"}}a{{end}}{{define "x"}}b{{end}}|{{define "x"}} {{end}}{{define "x"}}b{{end}}{{template "x"}}|{{define "x"}}b{{end}}{{define "x"}} {{end}}{{template "x"}}|{{define "root"}}r{{end}}|{{define "root"}}r{{end}} |{{define "root"}}r{{end}}x|{{define "root"}}{{end}}x|{{define x}}{{end}}|{{define "x" 1}}{{end}}|{{define `x`}}1{{end}}{{template `x`}}|{{define "x"}}{{else}}{{end}}|{{define "x"}}|{{define "a"}}{{define "b"}}{{end}}{{end}}|{{template "x" 1 | upper}}{{define "x"}}{{.}}{{end}}|{{template "x" "a" | upper}}{{define "x"}}{{.}}{{end}}|{{template "x" $y := 1}}{{define "x"}}{{.}}{{end}}{{$y}}|{{template x}}|{{template "\q"}}|{{define "x"}}{{end}}{{template "x"}}
{{block "x" 1}}<{{.}}>{{end}}|{{block "x" 1}}a{{end}}{{block "x" 2}}b{{end}}|{{block "x"}}{{end}}|{{block "x" .Device}}{{.}}{{end}}{{template "x" 2}}|{{define "x"}}d{{end}}{{block "x" 1}}b{{end}}|{{block "x" 1}}b{{else}}{{end}}|{{define "f"}}{{if .}}{{.}}{{template "f" (slice . 1)}}{{end}}{{end}}{{template "f" "abc"}}|{{define "f"}}{{range 2}}{{template "g"}}{{end}}{{end}}{{define "g"}}x{{end}}{{template "f"}}
{{"\n"}}|{{"\x41"}}|{{"\101"}}|{{"\u00e9"}}|{{"\U0001F600"}}|{{"\'"}}|{{"\0"}}|{{"\q"}}|{{"\xff"}}|{{"\xc3\xa9"}}|{{"\uD800"}}|{{"\U00110000"}}|{{"\400"}}|{{"\""}}|{{"\\"}}|{{"a`b"}}|{{`a"b`}}|{{`a\n`}}|{{"a|{{`a|{{'a}}|{{'a'}}|{{'\n'}}|{{'\''}}|{{'\"'}}|{{'\xff'}}|{{'é'}}|{{''}}|{{'ab'}}|{{'\u00e9'}}|{{'"'}}|{{"\a\b\f\r\t\v"}}
{{0x1F}}|{{0X1f}}|{{0o17}}|{{017}}|{{0b101}}|{{08}}|{{089}}|{{08.5}}|{{1_000}}|{{1__0}}|{{_1}}|{{1_}}|{{0x_1}}|{{0_7}}|{{1_0.5}}|{{1e1_0}}|{{1e6}}|{{1E3}}|{{1e-7}}|{{1.}}|{{.5}}|{{1.5e300}}|{{1e400}}|{{0x1p4}}|{{0x1.8p1}}|{{0x1.8}}|{{0x.8p0}}|{{1i}}|{{0i}}|{{1+2i}}|{{1-2.5i}}|{{1+2}}|{{1+2i3}}|{{+3}}|{{-0}}|{{-0.0}}|{{+}}|{{1e}}|{{0x}}|{{0b2}}|{{0o8}}|{{1a}}|{{123456789.0}}|{{100000.0}}|{{1000000.0}}|{{1e20}}|{{1e21}}|{{0.0001}}|{{0.00001}}|{{9223372036854775807}}|{{9223372036854775808}}|{{-9223372036854775808}}|{{-9223372036854775809}}|{{18446744073709551615}}|{{18446744073709551616}}|{{if false}}{{9223372036854775808}}{{end}}|{{0xep1}}|{{0x1e+2}}|{{1e+2}}|{{3.0}}|{{1.0}}|{{0x1p-2}}
{{.Missing}}|{{.Missing.x.y}}|{{.Nil}}|{{.Nil.x}}|{{.M.n}}|{{.M.n.x}}|{{.M.q.x}}|{{.Tags.X}}|{{.Tags.X.Y}}|{{.Tags.Name.Y}}|{{.Device.x}}|{{.N.x}}|{{.L.x}}|{{.T.x}}|{{.Device 1}}|{{1 | .Device}}|{{.Missing 1}}|{{1 | .Missing}}|{{.Missing.x 1}}|{{1 | .Missing.x}}|{{.M.y.z}}|{{.M.y}}|{{.M}}|{{.L}}|{{.Tags}}|{{print .}}|{{printf "%v" .}}|{{printf "%s" .}}
{{range .L}}{{.x}}{{end}}|{{range $i, $x := .L}}{{$x}}{{end}}|{{range .L}}{{if .}}{{.}}{{else}}no{{end}}{{end}}|{{with .Nil}}{{else}}no{{end}}|{{$x := .Nil}}{{$x.y}}|{{$x := .Missing}}{{$x.y}}|{{(.Nil).x}}|{{(index .M "n").x}}|{{index .M "n"}}|{{index .Tags "q"}}|{{index .M "q"}}|{{index .M "y" "z"}}|{{index . "M" "x"}}
"""

BUILTINS = r"""
{{print 1 2}}|{{print 1 "a" 2}}|{{print "a" "b"}}|{{print 1 nil}}|{{print nil nil}}|{{print}}|{{println}}|{{println 1 "a"}}|{{print 1.5 true}}|{{print .L}}|{{print .Missing}}|{{print .Nil}}|{{print 'a'}}|{{print 1i}}|{{print "é" 1}}
{{eq 1 1}}|{{eq 1 1.0}}|{{eq 1 "1"}}|{{eq "a" "a"}}|{{eq 1 2 1}}|{{eq 1 1 "x"}}|{{eq 1 2 "x"}}|{{eq 1}}|{{eq}}|{{eq nil nil}}|{{eq 1 nil}}|{{eq nil 1}}|{{eq .Missing ""}}|{{eq .Missing nil}}|{{eq .Nil nil}}|{{eq .Nil .Missing}}|{{eq .M nil}}|{{eq .M .M}}|{{eq .L .L}}|{{eq .L .M}}|{{eq .M 1}}|{{eq true true}}|{{eq 1i 1i}}|{{eq 1.5 .F}}|{{eq (index "a" 0) 97}}|{{eq 97 (index "a" 0)}}|{{eq . .}}|{{eq . nil}}|{{ne . nil}}|{{eq $ .}}
{{ne 1 2}}|{{ne 1}}|{{ne 1 "a"}}|{{lt 1 2}}|{{lt 1 2 3}}|{{lt "a" "b"}}|{{lt "é" "z"}}|{{lt 1 1.5}}|{{lt true false}}|{{lt nil 1}}|{{lt 1i 2i}}|{{lt .M .M}}|{{le 1 1}}|{{le 2 1}}|{{gt 2 1}}|{{gt 1 1}}|{{ge 1 1}}|{{ge 1.5 2.5}}|{{lt (index "a" 0) 98}}|{{gt "b" "a"}}|{{le "a" 1}}|{{le .Nil 1}}|{{lt .Missing 1}}
{{and}}|{{or}}|{{and 1}}|{{and 0 1}}|{{and 1 0}}|{{and 1 2 3}}|{{or 0 "" nil}}|{{or 0 "" 5 6}}|{{or .Missing "d"}}|{{or .Nil "d"}}|{{and .Missing 1}}|{{or .Missing .Nil}}|{{1 | or 0}}|{{0 | or 0}}|{{1 | and 0}}|{{1 | and 2}}|{{and false (index .L 99)}}|{{or true (index .L 99)}}|{{and true (index .L 99)}}|{{not 0}}|{{not 1}}|{{not}}|{{not 1 2}}|{{not .Missing}}|{{not nil}}|{{not .L}}|{{not ""}}|{{not 0.0}}|{{not 0i}}|{{or (and 0 1) (and 2 3)}}|{{and (or 0 1) (or 0 2)}}|{{or (or (or 0 0) 0) (or 7)}}|{{1 | not}}
{{len "abc"}}|{{len "é"}}|{{len .L}}|{{len .M}}|{{len .Tags}}|{{len 1}}|{{len nil}}|{{len .Missing}}|{{len .Nil}}|{{len}}|{{len "a" "b"}}|{{"abc" | len}}|{{len .}}|{{len "\xff\xfe"}}
{{index "abc" 1}}|{{index "abc" 3}}|{{index "abc" -1}}|{{index "abc" "a"}}|{{index "abc" 1.0}}|{{index "abc" nil}}|{{index "é" 0}}|{{index .L 0}}|{{index .L 3}}|{{index .L 5}}|{{index .L 9}}|{{index .M "x"}}|{{index .M 1}}|{{index .M nil}}|{{index nil 1}}|{{index nil}}|{{index 1}}|{{index .M}}|{{index .Missing "x"}}|{{index .Nil "x"}}|{{index 1 1}}|{{index .L 0 0}}|{{index .L (index "\x01" 0)}}|{{index .Tags "Name" 0}}|{{index}}|{{index . "x"}}|{{index . 1}}|{{index . nil}}|{{index .M "y" "q"}}|{{index .M "q" "q"}}|{{index .L true}}|{{0 | index .L}}
{{slice "abc"}}|{{slice "abc" 1}}|{{slice "abc" 1 2}}|{{slice "abc" 1 2 3}}|{{slice "abc" 2 1}}|{{slice "abc" 4}}|{{slice "abc" 3}}|{{slice "abc" -1}}|{{slice "é" 0 1}}|{{slice "é" 0 1}}{{slice "é" 1}}|{{print (slice "é" 0 1) (slice "é" 1)}}|{{slice .L 1 2}}|{{slice .L 1 2 3}}|{{slice .L 1 2 9}}|{{len (slice .L 0 0)}}|{{slice (slice .L 0 1) 0 3}}|{{slice .M 1}}|{{slice nil}}|{{slice 1}}|{{slice "abc" 0 1 2 3}}|{{slice .L 2 1}}|{{slice .L 0 2 1}}|{{slice .Missing}}|{{slice "abc" "a"}}
{{html "<a href='x'>&\"</a>"}}|{{html .Name}}|{{html .Missing}}|{{html .Nil}}|{{html nil}}|{{html 1 2}}|{{html "a" "b"}}|{{html}}|{{html .L}}|{{html "\x00"}}|{{html "é\xff"}}|{{html .M}}|{{.Missing | html}}
{{js "a'b\"c<d>&=\\\n\t\x01é\u200b\U0001F600"}}|{{js .Missing}}|{{js 1}}|{{js "\xff"}}|{{js "\u00ad\ue000"}}|{{js "\x7f"}}|{{js .L}}|{{js}}|{{js "\U0001F600\U000E0001"}}
{{urlquery "a b&c=d/é~-_.*"}}|{{urlquery .Missing}}|{{urlquery 1 2}}|{{urlquery "\xff"}}|{{urlquery nil "a"}}|{{urlquery}}
{{call .Device}}|{{call nil}}|{{call}}|{{call 1 2}}|{{call .Missing}}|{{1 | call}}
{{printf "%d" 5}}|{{printf "%5d|%-5d|%05d|%+d|% d|%x|%X|%#x|%o|%#o|%O|%b|%#b|%c|%q|%U|%#U" 42 42 42 42 42 42 42 42 42 42 42 42 42 42 42 42 42}}|{{printf "%d" -5}}|{{printf "%05d|%+05d|%x|%#X" -5 5 -255 -255}}|{{printf "%.3d|%8.3d|%-8.3d|%08.3d|%.0d|%5.0d" 5 5 5 5 0 0}}|{{printf "%c|%q|%U" -1 -1 -1}}|{{printf "%c|%q|%#U" 55296 1114112 10}}|{{printf "%q|%+q|%#q" 'é' 'é' 'é'}}|{{printf "%s" 5}}|{{printf "%t" 5}}|{{printf "%f" 5}}|{{printf "%e" 5}}|{{printf "%v|%+v|%#v|%T" 5 5 5 5}}|{{printf "%z" 5}}
{{printf "%s|%10s|%-10s|%.2s|%q|%+q|%#q|%x|%X|% x|%# x|%#x|%v|%#v|%T|%d|%t" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy" "héy"}}|{{printf "%05s|%-05s" "a" "a"}}|{{printf "%.0s|%10.1s|%.3x|%10x|%-10x|%010x" "abc" "abc" "abcd" "ab" "ab" "ab"}}|{{printf "%x|%5x|%q|%#q|%#q" "" "" "" "" "a`b"}}|{{printf "%q" "\xff\x00\u200b\n\"'\U0001F600\u00ad"}}|{{printf "%+q" "\xff\u200b\U0001F600é"}}|{{printf "%s" "\xff"}}|{{printf "%c" "a"}}|{{printf "%.1q" "éa"}}|{{printf "%6.2q|" "abc"}}
{{printf "%f|%.2f|%8.2f|%-8.2f|%08.2f|%+f|% f|%e|%E|%g|%G|%v|%b|%x|%X|%F|%T" 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5 2.5}}|{{printf "%g|%g|%g|%g|%g" 1e6 1e20 1e21 1e-5 123456.0}}|{{printf "%.3g|%.10g|%.0g|%#g|%#.3g|%#.0f|%#x|%#e" 1234.5678 1234.5678 1234.5678 1.0 1.0 3.0 1.0 1.0}}|{{printf "%.3x|%.0x|%.20x|%x" 1.9999 1.5 1.5 0.0}}|{{printf "%b|%b" 0.0 5e-324}}|{{printf "%g|%e|%f|%v" -0.0 -0.0 -0.0 -0.0}}|{{printf "%06.1f|%+06.1f|%-6.1f|" -2.5 2.5 2.5}}|{{printf "%.1f|%.0f|%.0f|%.0f" 0.25 0.5 1.5 2.5}}|{{printf "%d|%s" 1.5 1.5}}|{{printf "%#v|%+v" 1.0 1e6}}|{{printf "%.30f" 0.1}}|{{printf "%e" 1e100}}|{{printf "%.3e|%.0e" 123456.0 15.0}}|{{printf "%.2g|%.1g|%.5g" 100000.0 0.00001234 0.00001234}}|{{printf "%#.3g|%#g|%#g" 100.0 1e20 0.0}}
{{printf "%v|%.1f|%8.1f|%+v|%d|%T|%g|%e|%x" 1.5i 1.5i 1.5i 1.5i 1.5i 1.5i 1.5i 1.5i 1.5i}}|{{printf "%t|%v|%5t|%-7t|%05t|%d|%s|%T|%#v" true false true true true true true true true}}
{{printf "%v|%s|%d|%T|%5v|%q|%t" nil nil nil nil nil nil nil}}|{{printf "%v|%s" .Missing .Missing}}|{{printf "%v|%s|%d|%q|%x" .L .L .L .L .L}}|{{printf "%v|%s|%+v|%d|%q|%5v" .Tags .Tags .Tags .Tags .Tags .Tags}}|{{printf "%v|%s|%d" .M .M .M}}|{{printf "%#v|%T" .Tags .Tags}}|{{printf "%#v|%T" .L .L}}|{{printf "%T|%#v|%d|%v|%s|%c|%x" (index "a" 0) (index "a" 0) (index "a" 0) (index "a" 0) (index "a" 0) (index "a" 0) (index "a" 0)}}|{{printf "%w|%w" "a" nil}}|{{printf "%p" 1}}|{{printf "%p" "a"}}
{{printf}}|{{printf 1}}|{{printf nil}}|{{printf .Missing}}|{{printf "a"}}|{{printf "%"}}|{{printf "%%"}}|{{printf "%5%"}}|{{printf "%d"}}|{{printf "%d" 1 2}}|{{printf "a" 1 nil "b"}}|{{printf "%[1]d %[1]x" 5}}|{{printf "%[2]d %[1]d" 1 2}}|{{printf "%[3]d" 1}}|{{printf "%[x]d" 1}}|{{printf "%[" 1}}|{{printf "%[]" 1}}|{{printf "%[]d" 1}}|{{printf "%[1]" 1}}|{{printf "%[0]d" 1}}|{{printf "%[-1]d" 1}}|{{printf "%[1]5d" 1}}|{{printf "%[1].2d" 1}}|{{printf "%*d|" 5 1}}|{{printf "%-*d|" 5 1}}|{{printf "%*d|" -5 1}}|{{printf "%*d" "a" 1}}|{{printf "%*d" 1}}|{{printf "%.*f" 2 1.234}}|{{printf "%.*f" -2 1.234}}|{{printf "%.*f" "a" 1.234}}|{{printf "%[2]*[1]d|" 1 5}}|{{printf "%[3]*.[2]*[1]f|" 12.0 2 6}}|{{printf "%.[2]*[1]f" 12.5 2}}|{{printf "%1000001d" 1}}|{{printf "%.d|%.f|%.s|" 1 1.5 "a"}}|{{printf "%."}}|{{printf "%.2"}}|{{printf "%-+ #0d" 1}}|{{printf "%é" 1}}|{{printf "%!d" 1}}|{{printf "%d %s" "a" 1}}|{{printf "%d%%" 5}}|{{printf "%#+v|%+#v" "a" "a"}}|{{printf "%[5]*d" 1}}|{{printf "%[1]*d" 3}}|{{"x" | printf "%s-%s" "y"}}|{{1 | printf}}|{{"%d" | printf}}|{{printf "%06d|%x|%t" "abc" true 1.5}}|{{printf "%+d|%+s|% s" "a" 1 2}}|{{printf "%*d" 1000001 1}}|{{printf "%+.2e|%+v" "a" "b"}}|{{printf "%08q|%08v" "a" "b"}}|{{printf "%8T|%.2T" 1 "a"}}|{{printf "%08.3f|%+08.3f|%-08.3f|" 1.5 1.5 1.5}}|{{printf "%+q" 955}}
"""

PACKER = r"""
{{build_name}}|{{build_type}}|{{packer_version}}|{{template_dir}}|{{timestamp}}|{{build_name 1}}|{{timestamp | upper}}|{{print timestamp}}|{{build_name.x}}|{{build_name | upper | lower}}
{{user "a"}}|{{user `a`}}|{{user "missing"}}|{{user 1}}|{{user}}|{{user "a" "b"}}|{{user nil}}|{{user .Missing}}|{{user .Nil}}|{{"a" | user}}|{{user "nested"}}|{{user "twice"}}|{{user "broken"}}|{{user "self"}}|{{user "grows"}}|{{user "device"}}|{{user ("a")}}|{{user "a" | upper}}|{{if user "a"}}y{{end}}|{{user 'a'}}|{{user true}}|{{user (print "a")}}
{{env "HOME"}}|{{env}}|{{consul_key "a"}}|{{vault "a" "b"}}|{{vault "a"}}|{{aws_secretsmanager "a"}}|{{aws_secretsmanager}}|{{aws_secretsmanager_raw "a"}}|{{sed "a" "b"}}|{{if false}}{{env "HOME"}}{{end}}|{{env 1}}
{{upper "aé ßŉﬁ İi σς"}}|{{lower "AÉ ẞİ ΣΑΣ Ǆǅ"}}|{{upper "ᾳᾼΐ"}}|{{upper "\xff"}}|{{lower "\xffé"}}|{{upper 1}}|{{upper}}|{{upper "a" "b"}}|{{upper .Device}}|{{upper .Missing}}|{{upper .L}}|{{"a" | upper}}|{{.N | upper}}|{{upper true}}
{{split "a,b,c" "," 1}}|{{split "a,b,c" "," 3}}|{{split "a,b,c" "," -1}}|{{split "a,b" "," "1"}}|{{split "a,b" "," 1.0}}|{{split "a,b" "," 1.5}}|{{split "a,b" "," 'a'}}|{{split "abc" "" 1}}|{{split "" "" 0}}|{{split "" "," 0}}|{{split "héy" "" 1}}|{{1 | split "a,b" ","}}|{{1.0 | split "a,b" ","}}|{{split "a" "a" 0}}|{{split "a,b" "," (index "\x01" 0)}}|{{split "a,b" "," .N}}|{{split "a,b" "," true}}|{{split "a,b" "," 0x1}}|{{split "a,b" ","}}|{{split "aXXb" "X" 1}}|{{split "a,b" "," 1i}}|{{split "a,b" "," 0i}}|{{split "a\xff" "" 1}}
{{replace "a" "b" 1 "aaa"}}|{{replace "a" "b" -1 "aaa"}}|{{replace "a" "b" 0 "aaa"}}|{{replace "a" "b" 99 "aaa"}}|{{replace "" "-" -1 "héy"}}|{{replace "" "-" 2 "abc"}}|{{replace "" "-" 9 "abc"}}|{{replace "a" "b" "1" "aaa"}}|{{replace_all "a" "b" "aaa"}}|{{replace_all "" "-" "abc"}}|{{replace_all "" "-" ""}}|{{replace_all "a" "" "banana"}}|{{"aaa" | replace_all "a" "b"}}|{{"aaa" | replace "a" "b" 2}}|{{replace_all "a" 1 "aaa"}}|{{replace_all "a" "b"}}|{{replace_all "aa" "b" "aaaaa"}}|{{replace "a" "b" 1.0 "aaa"}}|{{replace "" "-" 1 ""}}|{{replace_all "\xa9" "x" "é"}}
{{build "Device"}}|{{build "Missing"}}|{{build "N"}}|{{build}}|{{build `Device` | upper}}|{{build "Place"}}
{{isotime}}|{{isotime ""}}|{{isotime "a" "b"}}|{{isotime 1}}|{{isotime "2006-01-02 15:04:05"}}|{{isotime "Jan _2 2006 Mon Monday January"}}|{{isotime "Janx Monx Marchx Jan1 JanX"}}|{{isotime "002 __2 _2 02 2 _2006 _20"}}|{{isotime "3 03 PM pm 15"}}|{{isotime "1 01 4 04 5 05 6 06 7 07 0"}}|{{isotime "MST Z07:00 Z0700 Z07 -07:00 -0700 -07 Z070000 Z07:00:00 -070000 -07:00:00"}}|{{isotime ".000 ,000 .999 .9 .0 05.000 05,999 05.000000000 05.9999 .0000000000 .001 .000a .99x .9990"}}|{{isotime "January" | lower}}|{{isotime "20060102T150405Z"}}|{{isotime "aé2006"}}|{{isotime "Mon, 02 Jan 2006 15:04:05 MST"}}|{{isotime "0000 00 0 07"}}|{{isotime "12 11 10 13 21 22 23"}}|{{isotime "P p M J _ __ -0 Z0"}}|{{"2006" | isotime}}
{{strftime "%Y-%m-%d %H:%M:%S %B %b %A %a %I %p %y %Z %z %L %% %j %F %"}}|{{strftime ""}}|{{strftime}}|{{strftime 1}}|{{strftime "2006 01"}}|{{strftime "%é"}}|{{strftime "a%"}}|{{strftime "%%Y"}}|{{strftime "%E%O"}}
"""

STRUCTS = r"""
{{.}}|{{print .}}|{{printf "%v" .}}|{{printf "%s" .}}|{{printf "%+v" .}}|{{.Device}}|{{.Missing}}|{{if false}}{{.Missing}}{{end}}|{{.Tags.Name}}|{{.Tags.X}}|{{.Device.x}}|{{eq . .}}|{{eq . nil}}|{{if .}}y{{end}}|{{not .}}|{{len .}}|{{index . "Device"}}|{{range .}}{{end}}|{{slice .}}|{{html .}}|{{js .}}|{{urlquery .}}|{{upper .}}|{{.Device 1}}|{{.Missing 1}}|{{$.Device}}|{{with .Tags}}{{$.Device}}{{.Env}}{{end}}|{{range $k, $v := .Tags}}{{$k}}{{$v}}{{end}}|{{and . 1}}|{{build "Device"}}|{{lt . .}}|{{eq . 1}}|{{define "x"}}{{.Device}}{{end}}{{template "x" .}}|{{(.).Device}}|{{print . 1 .}}|{{printf "%d" .}}
"""


def _split(block: str) -> list[str]:
    """A block's templates: one line holds several, between bars that stand outside of actions."""
    found: list[str] = []
    for line in block.strip("\n").split("\n"):
        current = ""
        for part in line.split("|"):
            current = f"{current}|{part}" if current else part
            if _bar_ends(current):
                found.append(current)
                current = ""
        if current:
            found.append(current)
    return found


def _bar_ends(text: str) -> bool:
    """Whether the text is a template by itself: as many openings as closings, no open paren."""
    return text.count("{{") <= text.count("}}")


PLACEHOLDER = (
    "Build_Place. To set this dynamically in the Packer template, you must use the `build` function"
)
LINES = "a\n{{- 1 -}}\n b {{ 1\n}}\n{{`x\r\ny`}}\n"
MORE = [
    LINES,
    '{{"a\nb"}}',
    "{{1}}\n\n",
    "x \t\r\n {{- 1 -}} \t\r\n y",
    "x\u00a0{{- 1 -}}\u00a0y",
    "x\f{{- 1 -}}\vy",
    "{{-\n1\n-}} x",
    "{{\t1\t}}",
    "{{1\u00a0}}",
    "{{`a\nb`}}",
    "{{'\n'}}",
    "{{/* a\nb */}}x",
    "{{.Dev\u0301}}",
    "{{.\u0661}}",
    "{{$\u0661 := 1}}{{$\u0661}}",
    "{{\u00b2}}",
    "{{range .L -}} x {{- end}}",
    "{{if true -}} \n a \n {{- else -}} \n b \n {{- end}}",
    "{{" * 3,
    "{{ | }}",
    '{{print "|"}}',
    "{{1 \x00}}",
    "\x00{{1}}",
    '{{"\x00"}}',
    '{{define "a"}}\n\u00a0{{end}}{{define "a"}}x{{end}}{{template "a"}}',
    '{{define "a"}}{{/* c */}}{{end}}{{define "a"}}x{{end}}{{template "a"}}',
    '{{define "a"}}\x1c{{end}}{{define "a"}}x{{end}}',
    "".join("{{if true}}" for _ in range(60)) + "x" + "{{end}}" * 60,
    "".join("{{range 1}}" for _ in range(45)) + "{{break}}" + "y{{end}}" * 45,
    "{{range 3}}" + "{{if true}}" * 30 + "{{continue}}" + "{{end}}" * 30 + "z{{end}}w",
    "{{range 3}}" + "{{with 1}}" * 25 + "{{break}}" + "{{end}}" * 25 + "z{{end}}w",
    "{{if false}}a" + "".join(f"{{{{else if eq 149 {n}}}}}{n}" for n in range(150)) + "{{end}}",
    "{{$x := 1}}" + "{{if $x}}" * 25 + "{{$x = 5}}{{$y := 2}}" + "{{end}}" * 25 + "{{$x}}",
    '{{define "r"}}{{if .}}{{template "r" (slice . 1)}}{{len .}},{{end}}{{end}}'
    '{{template "r" "' + "a" * 600 + '"}}',
]


def hand_made() -> list[Case]:
    """Every hand-made case."""
    cases: list[Case] = []
    data = {**MAP, "Place": PLACEHOLDER}
    for template in [*_split(SYNTAX), *_split(BUILTINS), *_split(PACKER), *MORE]:
        cases.append(Case(template, "validate", None, SCOPE))
        cases.append(Case(template, "once", data, SCOPE))
    for template in _split(PACKER):
        cases.append(Case(template, "render", data, SCOPE))
        cases.append(Case(template, "once", DECODE_DATA, Scope(started_at=STARTED_AT)))
    for template in [*_split(STRUCTS), *_split(SYNTAX)]:
        cases.append(Case(template, "once", STRUCT, SCOPE))
    for template in _split(STRUCTS):
        cases.append(Case(template, "once", DECODE_DATA, SCOPE))
        cases.append(Case(template, "once", None, SCOPE))
        cases.append(Case(template, "render", STRUCT, SCOPE))
        cases.append(Case(template, "once", {}, SCOPE))
        cases.append(Case(template, "once", StringMap(Device="x", Name="y"), SCOPE))
    for moment in (
        datetime(2000, 1, 1, 0, 0, 0, 0, UTC),
        datetime(2024, 12, 31, 12, 59, 59, 999999, UTC),
        datetime(2023, 11, 10, 23, 1, 2, 100, UTC),
    ):
        scope = Scope(started_at=moment)
        cases += [Case(t, "once", None, scope) for t in _split(PACKER) if "time" in t]
    return cases
