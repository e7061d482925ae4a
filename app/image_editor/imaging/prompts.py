"""Prompts in English and in simplified or traditional Chinese: `parse` turns one into operations.

A prompt is folded to lower case, half width and simplified characters. REWRITES replaces numbers in words and idioms.
The prompt is split into clauses at SEPARATORS, and FILLER removes the words that say nothing. RULES says what the rest
of a clause means. docs/app/prompts.md explains the vocabulary to clients; tests/data/prompts_*.txt has what people write.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from image_editor.imaging.engines import EditError
from image_editor.imaging.operations import (
    OPERATIONS_MAX,
    QUOTES,
    WATERMARK_MAX_CHARS,
    Blur,
    Brightness,
    Contrast,
    Convert,
    Crop,
    CropSquare,
    Fit,
    Flip,
    Greyscale,
    Invert,
    Operation,
    Resize,
    Rotate,
    Saturation,
    Scale,
    Sepia,
    Sharpen,
    Watermark,
    make,
    plain,
)

TONE, BLUR, SHARPEN = (20, 40), (2, 6), (1, 2)  # without a number: "brighter", and "much brighter"

VOCABULARY = (
    "greyscale, sepia, invert, rotate 90, flip horizontal, flip vertical, resize to 800x600, resize 50%, "
    "fit 800x600, crop 400x300, blur 3, sharpen, brightness +20, contrast -10, saturation +30, "
    'watermark "text", convert to png (also in Chinese: 黑白，旋转90度，缩放到800x600，裁剪，模糊，锐化，亮度，对比度，水印)'
)

# --- folding ---------------------------------------------------------------------------------------------------------
# The traditional characters of the vocabulary, each before its simplified one.
_PAIRS = (
    "縮缩適适應应轉转為为爲为後后並并將将對对張张圖图換换變变銳锐飽饱調调階阶負负復复複复懷怀舊旧顏颜順顺時时針针鏡镜"
    "寬宽長长個个處处濾滤檔档儲储輸输匯汇導导壓压質质幫帮請请讓让這这該该給给還还邊边兩两倍倍減减強强與与從从間间開开"
    "區区內内標标點点樣样麼么謝谢嗎吗畫画顛颠過过來来傾倾鮮鲜豔艳艷艳濃浓淺浅單单較较設设擇择當当頭头側侧現现實实際际"
    "會会煩烦齊齐無无數数於于級级霧雾淨净滿满佔占們们寫写麗丽圓圆細细動动產产幾几風风覺觉鐘钟徑径擷撷"
)
_SIMPLIFIED = str.maketrans(dict(zip(_PAIRS[::2], _PAIRS[1::2], strict=True)))

_ENGLISH_NUMBERS = {
    "one hundred and eighty": "180", "one hundred eighty": "180", "one eighty": "180", "two hundred and seventy": "270",
    "two hundred seventy": "270", "two seventy": "270", "forty-five": "45", "forty five": "45", "ninety": "90",
    "eighty": "80", "seventy-five": "75", "seventy five": "75", "seventy": "70", "sixty": "60", "fifty": "50",
    "forty": "40", "thirty": "30", "twenty": "20", "fifteen": "15", "ten": "10", "five": "5", "four": "4", "three": "3",
    "two": "2",
}  # fmt: skip
_NUMERALS = "零一二三四五六七八九"
_DIGITS = {char: number for number, char in enumerate(_NUMERALS)} | {"〇": 0, "两": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
# Repetitions are bounded, so that a prompt of any kind takes milliseconds.
_C1 = f"[{_NUMERALS}〇两]"
_CN = f"[{_NUMERALS}〇两十百千]"
_C = f"{_CN}{{1,9}}"  # a Chinese number


def _chinese(number: str) -> int:
    """The value of a Chinese number such as 一百八十."""
    total = digit = 0
    for char in number:
        if char in _UNITS:
            total, digit = total + (digit or 1) * _UNITS[char], 0
        else:
            digit = 10 * digit + _DIGITS[char]
    return total + digit


def _to_percent(percent: Callable[[float], float]) -> Callable[[re.Match[str]], str]:
    """The rewriting of an idiom about the size, of which the group `n` is a number."""
    return lambda match: f" resize {plain(percent(float(match['n'])))}% "


def _times(number: float) -> float:
    return 100 * number


def _divided(number: float) -> float:
    return 100 / number if number else 0


def _more(percent: float) -> float:
    return 100 + percent


def _less(percent: float) -> float:
    return 100 - percent


def _enlarged(percent: float) -> float:
    """Whoever enlarges by 20 % does not want a fifth of the size, whether with or without "by"."""
    return percent if percent >= 100 else 100 + percent


_ENLARGE = (
    r"\b(?:enlarge|upscale|scale(?: it)? up|blow(?: it)? up|expand|magnify|zoom in|increase (?:the |its )?size)\b"
)
_REDUCE = r"\b(?:shrink|downscale|downsize|scale(?: it)? down|zoom out|(?:reduce|decrease|cut) (?:the |its )?(?:size|dimensions))\b"
_REST = r"[^,;.\d]{0,50}?"  # the rest of a clause, up to its number
_UNTIL_BY = r"(?:(?!\b(?:to|brightness|contrast|saturation|vibrance|sharpness|colou?rs?|file)\b)[^,;.\d]){0,50}?\b"  # the same, if it names neither a size that is wanted nor a tone
_NUMBER, _FEW = r"(?P<n>\d{1,4}(?:\.\d{1,6})?)", r"(?P<n>\d{1,2}(?:\.\d{1,6})?)"
_NOT_PIXELS = r"(?![\d.]|\s*(?:%|px|pix|\d|x\s*\d))"
_BIG, _SMALL = r"(?:bigger|larger|as big|as large|as wide)", r"(?:smaller|as small)"
_SIZED = r"(?:(?:the|its|in)? ?(?:original |current )?size)"
_ZOOM_IN, _ZOOM_OUT = "(?:放大|增大|扩大|变大|加大)", "(?:缩小|减小|变小|缩)"

# In this order, on the whole prompt. What a later rewriting or a rule understands replaces what people write.
REWRITES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    # numbers
    (r"\b(?:" + "|".join(_ENGLISH_NUMBERS) + r")\b", lambda m: _ENGLISH_NUMBERS[m[0]]),
    (r"\bminus (?=\d)", "-"),
    (r"(?<=\d)\s{0,3}(?:percent|per cent|pct)\b", "%"),
    (rf"({_C})分之({_C})", lambda m: f"{plain(100 * _chinese(m[2]) / (_chinese(m[1]) or 1))}%"),
    (rf"({_C})点({_C1}{{1,6}})(?=倍)", lambda m: f"{_chinese(m[1])}.{''.join(str(_DIGITS[c]) for c in m[2])}"),
    (
        rf"(?<=转){_C}(?!下)|(?={_C1}{{0,8}}[十百千]){_C}(?<={_CN}{{2}})|{_C}(?=\s*(?:度|°|倍|个?像素|画素|px|%))",
        lambda m: str(_chinese(m[0])),
    ),
    (rf"({_C1})成(?!为)", lambda m: f"{10 * _chinese(m[1])}%"),
    (r"画素", "像素"),
    (r"\b(\d{1,6})\s*(?:px|pixels?)?\s*by\s*(\d{1,6})\b", r"\1x\2"),
    (
        r"\b(\d{1,6})\s*(?:px|pixels?)?\s*(?:wide|width)\s*(?:and|by|x)?\s*(\d{1,6})\s*(?:px|pixels?)?\s*(?:high|tall|height)",
        r"\1x\2",
    ),
    (
        r"\bwidth\s*(?:of|to|=|:)?\s*(\d{1,6})\s*(?:px|pixels?)?\s*(?:and|x)?\s*height\s*(?:of|to|=|:)?\s*(\d{1,6})",
        r"\1x\2",
    ),
    (r"宽度?(?:为|是|:)?(\d{1,6})(?:像素|px)?高度?(?:为|是|:)?(\d{1,6})", r"尺寸\1x\2"),
    (r"\bfrom\s+\d{1,6}\s*[x×*]\s*\d{1,6}\s*(?:px|pixels?)?\s+(?=to\b|down\b|up\b)", ""),
    # colours
    (r"\bblack\s*-?\s*(?:and|&|/|n)?\s*-?\s*white\b|\bb\s*(?:&|/|and)\s*w\b", "greyscale"),
    (
        r"(?:看起来)?像?(?:老|旧)照片(?:一样|那样|似的)?(?=\s*(?:的?(?:效果|风格|感觉|滤镜|色调))|\s*(?:$|[,;、。!]))",
        "复古",
    ),
    (r"(?<!旋)(?:转|变)(?=黑白|灰)", ""),
    # places
    (r"\b(?:left\s*(?:and|to|/|-to-|-)\s*right|sideways)\b", "horizontal"),
    (r"\b(?:top\s*(?:and|to|/|-to-|-)\s*bottom|up\s*(?:and|to|/)\s*down)\b", "vertical"),
    (r"\bflip(?:\s+(?:it|the\s+\w+|this\s+\w+|my\s+\w+|image))?\s+upside[- ]?down\b", "flip vertical"),
    (r"(?:\brotate\s+(?:(?:it|the\s+\w+|this\s+\w+|my\s+\w+)\s+)?)?\bupside[- ]?down\b", "rotate 180"),
    (
        r"(?:\b(?:rotate|turn|make|give)\s+(?:(?:it|the\s+\w+|this\s+\w+)\s+)?(?:by\s+)?(?:an?\s+)?)?\bquarter[- ]turn\b",
        "rotate 90",
    ),
    (
        r"(?:\b(?:rotate|turn|make|give)\s+(?:(?:it|the\s+\w+|this\s+\w+)\s+)?(?:by\s+)?(?:an?\s+)?)?\bhalf[- ]turn\b",
        "rotate 180",
    ),
    (
        r"\bturn(?=(?:\s+(?:it|the|this|that|my|image|photo|photograph|picture|pic|by))*\s+(?:-?\d{1,3}\b(?!\s*(?:[x×*]|px|pix|%))"
        r"|(?:to(?:wards)?\s+the\s+)?(?:left|right)\b|(?:counter|anti)?[- ]?clockwise|cc?w\b|around))",
        "rotate",
    ),
    (r"\s*\b(?:starting |beginning )?at\s*(?:position |point )?\(?\s*(\d{1,6})\s*[,x/ ]\s*(\d{1,6})\s*\)?", r"+\1+\2"),
    (r"\s*\b(?:starting |beginning )?from\s*(?:position |point )?\(?\s*(\d{1,6})\s*,\s*(\d{1,6})\s*\)?", r"+\1+\2"),
    (
        r"从\s*\(?(\d{1,6})\s*[,、x]\s*(\d{1,6})\)?\s*(?:处|点|的|位置|开始|起)*\s*((?:裁剪|裁切|剪裁|裁|截取)\D{0,4}\d{1,6}\s*[x×*乘]\s*\d{1,6})",
        r"\3+\1+\2",
    ),
    # sizes
    (r"\b(?:in |by |to )?half\b(?: as (?:big|large))?|\bhalve\b", " 50% "),
    (r"(?<!by )\b(?:a|one) third\b", "33.333%"),
    (r"(?<!by )\b(?:a|one) quarter\b", "25%"),
    (r"\b(?:twice|double)\b", "2x"),
    (r"\b(?:triple|thrice)\b", "3x"),
    (rf"{_ENLARGE}{_REST}\bby {_NUMBER} ?%", _to_percent(_more)),
    (
        rf"(?:{_REDUCE}|\b(?:reduce|decrease)\b){_UNTIL_BY}{_NUMBER} ?%(?=\s*(?:$|[,;.!?]|and\b|then\b))",
        _to_percent(_less),
    ),
    (rf"{_NUMBER} ?% {_BIG}(?! as)", _to_percent(_more)),
    (rf"{_NUMBER} ?% {_SMALL}(?! as)", _to_percent(_less)),
    (rf"\benlarge\b{_REST}(?<!to ){_NUMBER} ?%", _to_percent(_enlarged)),
    (rf"{_REDUCE}{_REST}\b(?:by )?(?:a factor of )?{_FEW} ?(?:x|times){_NOT_PIXELS}", _to_percent(_divided)),
    (rf"{_REDUCE}{_REST}\bby (?:a factor of )?{_FEW}{_NOT_PIXELS}", _to_percent(_divided)),
    (
        rf"(?:{_ENLARGE}|\b(?:resize|scale)\b){_REST}\bby (?:a factor of )?{_FEW}(?: ?x| ?times)?{_NOT_PIXELS}",
        _to_percent(_times),
    ),
    (r"\b(?:resize|scale)(?: it)? (?P<n>\d\.\d+)(?: ?x)?(?![\d.%]| ?%)", _to_percent(_times)),
    (rf"\b{_FEW} ?(?:x|times) {_SMALL}\b", _to_percent(_divided)),
    (
        rf"(?:(?:{_ENLARGE}|\b(?:resize|scale)\b){_REST})?\b{_FEW} ?(?:x|times){_NOT_PIXELS}(?: {_BIG}| {_SIZED})?\b",
        _to_percent(_times),
    ),
    (rf"(?:\b(?:resize|scale)\b{_REST})?\bx{_FEW}\b{_NOT_PIXELS}", _to_percent(_times)),
    (r"缩略图|缩图", "缩略"),
    (r"一半", "50%"),
    (r"(?:尺寸|大小|长宽|宽高)?减半", "缩放50%"),
    (r"(?:尺寸|大小|长宽|宽高)(?:加倍|翻倍|翻一倍|加一倍)|放大加倍", "缩放200%"),
    (rf"{_ZOOM_IN}(?:了)?1倍", "缩放200%"),
    (rf"{_ZOOM_IN}(?:了|到|为|至|成)?(?:原来|原图|原始)?(?:尺寸|大小)?的?{_NUMBER}倍", _to_percent(_times)),
    (rf"{_ZOOM_OUT}(?:了)?1倍", "缩放50%"),
    (rf"{_ZOOM_OUT}(?:了)?{_NUMBER}倍", _to_percent(_divided)),
    (
        rf"(?:缩放|尺寸|大小)?(?:到|为|至|成|是)?(?:原来|原图|原始)?(?:尺寸|大小)?的?{_NUMBER}倍(?:大小|尺寸|大)?",
        _to_percent(_times),
    ),
    (rf"{_ZOOM_IN}\s*{_NUMBER}\s*%", _to_percent(_enlarged)),
    (rf"{_ZOOM_OUT}(?:了)?\s*{_NUMBER}\s*%", _to_percent(_less)),
]

SEPARATORS = re.compile(
    r"[,;\n]|\.(?=\s|$)|[，、；。!?]|\b(?:and then|and|then|plus|also|afterwards|after that|finally|followed by)\b"
    r"|&|\s\+\s(?=[a-z一-龥])|然后|接着|接下来|随后|之后|并且|同时|而且|还有|还要|另外|最后|再|并|(?<!饱)和|以及|与|及|跟|后"
)
FILLER = re.compile(
    r"\b(?:please|pls|plz|kindly|thanks|thank you|hi|hey|i['’]?d like|i['’]?d|let['’]?s|it['’]?s|i|you|me|we|us|can|could"
    r"|would|will|should|want|need|like|make|turn|it|its|is|be|so|that|the|this|my|your|our|image|images|photo|photos"
    r"|photograph|picture|pictures|pic|file|apply|add|use|using|set|change|adjust|do|create|get|give|have|has|put|let|an?|into|by"
    r"|to|of|in|on|with|for|at|little|bit|just|only|now|first|next|some|slightly|somewhat|lightly|gently|subtle|subtly"
    r"|all|whole|entire|completely|fully|exactly|original|current|filter|effect|tone|toned|style|look|looks|looking|feel"
    r"|version|direction|again|once)\b"
    r"|请|麻烦|帮忙|帮我|帮|我(?:想要|想|要|希望)|想要|希望|需要|能不能|能否|可不可以|可以|把|将|给我|给|让|使|对(?!比|调|称)|[这那](?:张|幅|个)|该"
    r"|我的|整[张个体]|原图|原来|原始|旧?照片(?!$)|照片|相片|图片|图像|图案|影像|画面|图|它|一下|一点点?|一些|有点|些|点|稍微|稍稍|略微|轻微|适当|更加?"
    r"|(?<!旋)转(?:换|化)?(?:成|为)|[变改换弄调做](?:成|为|得)|设(?:置|定)?(?:成|为)?|做(?!旧)|应用|使用|套用|用|加[个上]|添加|加一[个层]|生成"
    r"|进行|处理|效果|特效|滤镜|风格|感觉|一样|那样|样子|的|了|吧|吗|呢|啊|哦|啦|谢谢|首先|先|也|都|全部|一个|个|在"
)
# What is not clear, and what to write instead.
_DOUBTFUL = [
    (
        re.compile(rf"\b(?:resize|scale)\b(?! (?:it )?(?:up|down)){_REST}\bby {_NUMBER} ?%"),
        "resize to 50%, or shrink by 50%",
    ),
    (
        re.compile(r"\bfile ?size\b"),
        "resize to 800 for fewer pixels; the output takes a quality, and a number of bytes at most",
    ),
    (re.compile(r"\b(?:is|it['’]s|looks?)\b[^,;.]{0,30}\b(?:soft|blurry|blurred)\b"), "sharpen, or blur"),
]
# A complaint asks for its remedy, unless another clause does.
_COMPLAINT = re.compile(r"(?:very ?)*(?:too (?:dark|bright)|太(?:暗|亮))(?: ?very)*")
_STRONG = re.compile(
    r"\b(?:very|much|a lot|lots|heavy|heavily|strong|strongly|really|extremely|significantly|dramatically)\b"
    r"|非常|大幅度?|强烈|特别|很|明显"
)
_SPACE_IN_CHINESE = re.compile(r"(?<=[一-龥]) | (?=[一-龥])")

# --- the vocabulary --------------------------------------------------------------------------------------------------
# Patterns match a whole clause, folded and without filler. "very" stands for every word that asks for much. {n} is a
# number, {i} an integer, {x} the sign between width and height.
_N, _I, _X = r"(\d+(?:\.\d+)?)", r"(\d{1,6})", r"\s*(?:[x×*]|乘以?)\s*"
_PX = r"\s*(?:px|pixels?|像素)?"
_SIGNED = r"(-?\d{1,4}(?:\.\d+)?)"
_CW = "clockwise|cw|right|顺时[针钟](?:方向)?|[向往朝]?右(?:边|侧)?"
_CCW = "counter-?\\s?clockwise|anti-?\\s?clockwise|ccw|left|[逆反]时[针钟](?:方向)?|[向往朝]?左(?:边|侧)?"
_TURN = rf"({_CCW}|{_CW})"
_DEG = " ?(?:°|deg|degrees?|度)"
_UP = "increase|raise|more|boost|enhance|higher|stronger|improve|up|增加|提高|增强|加强|调高|提升|拉高|加大|调大|升高|上升|变高|变强|加|高|强|大"
_DOWN = "decrease|lower|reduce|less|weaker|down|drop|降低|减少|减弱|调低|下降|减小|调小|拉低|变低|变弱|减|低|弱|小"
_KINDS = {
    "brightness": Brightness, "明亮度": Brightness, "亮度": Brightness, "明度": Brightness,
    "contrast": Contrast, "对比度": Contrast, "对比": Contrast, "反差": Contrast,
    "colour saturation": Saturation, "color saturation": Saturation, "saturation": Saturation, "vibrance": Saturation,
    "色彩饱和度": Saturation, "颜色饱和度": Saturation, "饱和度": Saturation, "饱和": Saturation, "彩度": Saturation,
}  # fmt: skip
_KIND = f"({'|'.join(_KINDS)})"
_VERB = r"(?:resize[ds]?|rescale|scale[ds]?|shrink|enlarge|upscale|downscale|downsize|reduce|expand|zoom)"
_SIZE = rf"(?:(?:{_VERB}|cut size|size|dimensions|resolution)(?: down| up| out)?(?: size| dimensions)?)"
_SIZE_ZH = "(?:缩放|缩小|放大|调整|改变|修改|缩|尺寸|大小|分辨率|解析度|比例|[到为至成: ])*"
_AS_LARGE_AS = r"(?:fit|within|inside|thumbnail|max(?:imum)?|at most|no (?:larger|bigger|more) than|up to)"
_AS_LARGE_AS_ZH = "(?:适应|适合|自适应|缩略|限制|不超过|最大|放进|放入|装进)"
_CROP = r"(?:crop(?:ped)?|trim|cut|clip)(?: out| down)?"
_MIDDLE = r"(?:center|centre|central|middle)"
_AREA = r"(?: (?:area|region|part|rectangle|square|section))?"
_MIDDLE_ZH = "(?:居中|置中|从?(?:中间|中央|中心))?"
_CROP_ZH = rf"{_MIDDLE_ZH}(?:裁剪|裁切|剪裁|裁|剪|切|截取|撷取|截)[出取]?{_MIDDLE_ZH}(?:部分|区域)?[到为成:]? ?"
_SQUARE = r"(?:square|(?:aspect ratio )?1 ?: ?1)(?: shape| crop| format| ratio| aspect ratio)*"
_FLIPPED = "(?:翻转|镜像|反转|镜射|颠倒|对调|互换|调换|相反|对称)+"
_RADIUS, _RADIUS_ZH = "(?: radius| sigma| strength)?", "(?:处理)?(?:半径|程度|强度|度)?[为到:]?"
_VIVID = r"(?:vivid|vibrant|saturated?|colou?rful)"
_FORMAT = "(jpe?g|png|webp|avif)"


def _just(kind: type, **fields: Any) -> Callable[[], Operation]:
    return lambda: make(kind, **fields)


def _turn(direction: str | None, degrees: str | None, direction_after: str | None = None) -> Operation:
    word = direction or direction_after or ""
    angle = float(degrees) if degrees else 90.0
    return make(Rotate, degrees=-angle if word and re.fullmatch(_CCW, word) else angle)


def _resize(width: str | None, height: str | None) -> Operation:
    return make(Resize, width=int(width) if width else None, height=int(height) if height else None)


def _width(*alternatives: str | None) -> Operation:
    return _resize(next(filter(None, alternatives)), None)


def _height(*alternatives: str | None) -> Operation:
    return _resize(None, next(filter(None, alternatives)))


def _fit(width: str, height: str) -> Operation:
    return make(Fit, width=int(width), height=int(height))


def _fit_square(*alternatives: str | None) -> Operation:
    side = next(filter(None, alternatives))
    return _fit(side, side)


def _crop(width: str, height: str, left: str | None = None, top: str | None = None) -> Operation:
    place = {"left": int(left), "top": int(top)} if left and top else {}
    return make(Crop, width=int(width), height=int(height), **place)


def _filter(kind: type, defaults: tuple[int, int]) -> Callable[..., Operation]:
    return lambda very, sigma, after=None: make(kind, sigma=float(sigma or defaults[bool(very or after)]))


def _tone(kind: type, sign: int) -> Callable[..., Operation]:
    return lambda very, amount, after=None: make(kind, percent=sign * float(amount or TONE[bool(very or after)]))


def _tone_of(sign: int) -> Callable[..., Operation]:
    return lambda very, kind, amount, after=None: _tone(_KINDS[kind], sign)(very, amount, after)


def _tone_to(kind: str, sign: str, amount: str, percent: str) -> Operation:
    """ "contrast 1.2" is a factor in other programs, and would hardly be seen as a percentage."""
    if not (sign or percent) and float(amount) < 5:
        raise EditError("prompt_unknown", f"{kind} {amount} may be a factor or a percentage: write {kind} +20%")
    return _tone_by(kind, sign, amount)


def _tone_by(kind: str, sign: str, amount: str) -> Operation:
    return _tone(_KINDS[kind], -1 if sign == "-" else +1)(None, amount)


def _convert(name: str) -> Operation:
    return make(Convert, format=name.replace("jpg", "jpeg"))


RULES: list[tuple[str, Callable[..., Operation]]] = [
    # colours
    (
        r"(?:convert )?(?:gr[ae]y ?scaled?|gr[ae]y|bw|monochrome|desaturated?|colou?rless)(?: colou?rs?)?",
        _just(Greyscale),
    ),
    (r"(?:no|without|remove|drop|strip) colou?rs?", _just(Greyscale)),
    (
        r"(?:黑白|灰度|灰阶|灰色|单色|去色|去饱和|(?:去掉|去除|移除|没有|无|不要)(?:颜色|色彩))[色化照片调]*",
        _just(Greyscale),
    ),
    (r"(?:convert )?(?:sepia|vintage|retro|old(?:[- ]fashioned)?|antique|aged)(?: colou?rs?)?", _just(Sepia)),
    (r"(?:复古|怀旧|棕褐色|褐色|泛黄|做旧|仿旧)[色调风]*", _just(Sepia)),
    (
        r"(?:invert(?:ed)?|inverse|negative|reversed?)(?: colou?rs?)?|colou?rs? (?:inverted|inverse|negative)",
        _just(Invert),
    ),
    (
        r"反色|反相|负片|底片|取反|(?:反转|颠倒|翻转)(?:颜色|色彩)|(?:颜色|色彩)(?:反转|颠倒|取反|反相|相反)",
        _just(Invert),
    ),
    # directions
    (r"rotate around|颠?倒过来|颠倒|倒置|掉头|调头|转半圈", _just(Rotate, degrees=180)),
    (rf"(?:rotate[ds]?|rotation|spin|tilt) ?{_TURN}? ?{_SIGNED}?(?:{_DEG})? ?{_TURN}?", _turn),
    (rf"{_TURN} ?{_SIGNED}{_DEG}", _turn),
    (rf"{_SIGNED}{_DEG} {_TURN}", lambda degrees, direction: _turn(direction, degrees)),
    (rf"{_TURN}?(?:旋转|转动|转){_SIGNED}?[°度]?", _turn),
    (rf"(?:旋转|转动|转){_TURN}(?:旋转|转)?{_SIGNED}?[°度]?", _turn),
    (rf"(?:旋转|转动|转){_SIGNED}[°度]{_TURN}", lambda degrees, direction: _turn(direction, degrees)),
    (
        r"(?:flip|mirror|reflect)(?:ped|ed)?(?: ?horizontal(?:ly)?)?|swap horizontal",
        _just(Flip, direction="horizontal"),
    ),
    (r"horizontal(?:ly)? (?:flip|mirror)(?:ped|ed)?", _just(Flip, direction="horizontal")),
    (rf"(?:水平|左右|横向){_FLIPPED}|{_FLIPPED}(?:水平|左右)|(?:翻转|镜像|镜射)+", _just(Flip, direction="horizontal")),
    (r"(?:flip|mirror|reflect)(?:ped|ed)? ?vertical(?:ly)?|swap vertical", _just(Flip, direction="vertical")),
    (r"vertical(?:ly)? (?:flip|mirror)(?:ped|ed)?", _just(Flip, direction="vertical")),
    (rf"(?:垂直|上下|竖直|纵向){_FLIPPED}|{_FLIPPED}(?:垂直|上下)", _just(Flip, direction="vertical")),
    # sizes
    (rf"(?:{_SIZE} )?{_I}{_X}{_I}{_PX}(?: size| resolution| dimensions)?", _resize),
    (rf"{_SIZE_ZH}{_I}{_X}{_I}{_PX}(?:大小|尺寸)?", _resize),
    (
        rf"(?:{_SIZE} )?{_AS_LARGE_AS}(?: (?:within|inside|size))?(?: box)? {_I}{_X}{_I}{_PX}(?: box| frame| size)?",
        _fit,
    ),
    (rf"(?:{_SIZE} )?{_I}{_X}{_I}{_PX} (?:thumbnail|max(?:imum)?|at most|box)", _fit),
    (rf"(?:{_SIZE} )?{_AS_LARGE_AS}(?: size)? {_I}{_PX}(?: thumbnail)?|{_I}{_PX} thumbnail", _fit_square),
    (rf"(?:{_SIZE} )?(?:fit )?(?:longest|longer|long|largest) (?:side|edge) {_I}{_PX}", _fit_square),
    (rf"{_SIZE_ZH}{_AS_LARGE_AS_ZH}[到为:]? ?{_I}{_X}{_I}{_PX}(?:以内|之内|内|里|框)*", _fit),
    (rf"{_SIZE_ZH}{_I}{_X}{_I}{_PX}(?:以内|之内|内|缩略|框)+", _fit),
    (rf"(?:最?长边|最大边长?)(?:缩放|缩小|放大|调整|限制|不超过|最大)?[到为:]? ?{_I}{_PX}", _fit_square),
    (rf"(?:{_SIZE} )?{_N} ?%(?: size)?", lambda percent: make(Scale, percent=float(percent))),
    (rf"{_SIZE_ZH}{_N} ?%(?:大小|尺寸)?", lambda percent: make(Scale, percent=float(percent))),
    (rf"(?:{_SIZE} )?(?:width {_I}{_PX}(?: wide)?|{_I}{_PX} (?:wide|width))", _width),
    (rf"(?:resize|scale|size) {_I}{_PX}|{_SIZE} (\d{{3,6}}){_PX}|(?:{_SIZE} )?{_I} ?(?:px|pixels?)", _width),
    (
        rf"{_SIZE_ZH}宽度?{_SIZE_ZH}{_I}{_PX}宽?|{_SIZE_ZH}{_I}{_PX}宽度?|(?:缩放|缩小|放大)[到为至成] ?{_I}{_PX}",
        _width,
    ),
    (rf"(?:{_SIZE} )?(?:height {_I}{_PX}|{_I}{_PX} (?:high|tall|height))", _height),
    (rf"{_SIZE_ZH}高度?{_SIZE_ZH}{_I}{_PX}高?|{_SIZE_ZH}{_I}{_PX}高度?", _height),
    # crops
    (rf"(?:{_MIDDLE} )?{_CROP}(?: {_MIDDLE})?{_AREA} {_I}{_X}{_I}{_PX}{_AREA}(?: ?(?:from )?{_MIDDLE})?", _crop),
    (rf"{_CROP}{_AREA} {_I}{_X}{_I}{_PX}{_AREA} ?\+ ?{_I} ?\+ ?{_I}", _crop),
    (rf"{_CROP_ZH}{_I}{_X}{_I}{_PX}(?:大小|区域|部分|尺寸)?", _crop),
    (rf"{_CROP_ZH}{_I}{_X}{_I}{_PX}(?:区域)? ?\+ ?{_I} ?\+ ?{_I}", _crop),
    (rf"(?:(?:{_MIDDLE}|{_CROP}) )*{_SQUARE}(?: (?:from )?{_MIDDLE})?", _just(CropSquare)),
    (rf"(?:{_CROP_ZH}|[到为成])?(?:正方形|方形|正方|1:1)(?:比例)?", _just(CropSquare)),
    # sharpness
    (
        rf"(very )?(?:gaussian )?(?:blur(?:ry|red)?|soften|soft){_RADIUS} ?{_N}?{_PX}{_RADIUS}( very)?",
        _filter(Blur, BLUR),
    ),
    (rf"(very)?加?(?:高斯)?(?:模糊|虚化|柔化|雾化){_RADIUS_ZH} ?{_N}?{_PX}", _filter(Blur, BLUR)),
    (
        rf"(very )?(?:sharpen(?:ed)?|sharper|sharp|crisper?){_RADIUS} ?{_N}?{_PX}{_RADIUS}( very)?",
        _filter(Sharpen, SHARPEN),
    ),
    (rf"(very )?(?:{_UP}) (?:sharpness|sharp|clarity) ?{_N}?( very)?", _filter(Sharpen, SHARPEN)),
    (rf"(very)?(?:{_UP})?变?(?:锐利?化|锐利度?|锐度|清晰度?){_RADIUS_ZH} ?{_N}?{_PX}", _filter(Sharpen, SHARPEN)),
    # tones
    (rf"{_KIND}(?: ?:)? ?([+-]?) ?{_N} ?(%?)", _tone_to),
    (rf"([+-]) ?{_N} ?%? ?{_KIND}", lambda sign, amount, kind: _tone_by(kind, sign, amount)),
    (rf"(very )?(?:{_UP}) ?{_KIND} ?{_N}? ?%?( very)?", _tone_of(+1)),
    (rf"(very )?{_KIND} ?(?:{_UP}) ?{_N}? ?%?( very)?", _tone_of(+1)),
    (rf"(?:{_UP}) ?{_N} ?%? ?{_KIND}", lambda amount, kind: _tone_by(kind, "+", amount)),
    (rf"{_N} ?% (?:{_UP}) {_KIND}", lambda amount, kind: _tone_by(kind, "+", amount)),
    (rf"(very )?(?:{_DOWN}) ?{_KIND} ?{_N}? ?%?( very)?", _tone_of(-1)),
    (rf"(very )?{_KIND} ?(?:{_DOWN}) ?{_N}? ?%?( very)?", _tone_of(-1)),
    (rf"(?:{_DOWN}) ?{_N} ?%? ?{_KIND}", lambda amount, kind: _tone_by(kind, "-", amount)),
    (rf"{_N} ?% (?:{_DOWN}) {_KIND}", lambda amount, kind: _tone_by(kind, "-", amount)),
    (
        rf"(very )?(?:brighten|brighter|lighten|lighter|bright|too dark)(?: up)? ?{_N}? ?%?( very)?",
        _tone(Brightness, +1),
    ),
    (rf"(very )?(?:darken|darker|dim|too bright) ?{_N}? ?%?( very)?", _tone(Brightness, -1)),
    (rf"{_N} ?% (?:brighter|lighter)", lambda amount: _tone_by("brightness", "+", amount)),
    (rf"{_N} ?% darker", lambda amount: _tone_by("brightness", "-", amount)),
    (rf"(very)?(?:太暗|[变调提增加弄]?(?:明亮|亮)){_N}?%?", _tone(Brightness, +1)),
    (rf"(very)?(?:太亮|[变调压弄]?暗){_N}?%?", _tone(Brightness, -1)),
    (rf"(very )?(?:colou?rs )?(?:(?:more )?{_VIVID}|more colou?rs?) ?{_N}? ?%?( very)?", _tone(Saturation, +1)),
    (rf"(very )?(?:colou?rs )?(?:less (?:{_VIVID}|colou?rs?)|muted|paler) ?{_N}? ?%?( very)?", _tone(Saturation, -1)),
    (rf"(very)?(?:颜色|色彩)?变?(?:鲜艳|鲜明|浓郁|浓){_N}?%?", _tone(Saturation, +1)),
    (rf"(very)?(?:颜色|色彩)?变?(?:淡|素){_N}?%?", _tone(Saturation, -1)),
    # formats
    (rf"(?:convert|save|export|output|format|download)?(?: format)? ?(?:as )?{_FORMAT}(?: format)?", _convert),
    (
        rf"(?:转档|转|格式|保存|储存|存|另存|存档|新档|输出|汇出|导出|[换改变为成到:])*{_FORMAT}(?:格式|档案?|文件)*",
        _convert,
    ),
]
_RULES = [(re.compile(pattern), build) for pattern, build in RULES]
_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in REWRITES]

# The text of a watermark is taken out first, because it may contain commas, "and" and any script. _SLOT marks its place.
_QUOTED = "|".join(f"{begin}[^{end}]*{end}" for begin, end in (*QUOTES, "『』"))
_PLAIN_TEXT = "[^,;,；、。]+"
_ON_IT = r"(?:\s+(?:on|onto|over|in|at|to)(?:\s+(?:it|top|of|the|this|my|image|photo|picture|bottom|lower|right|hand|corner))+)?"
_IN_CORNER = "(?:在[^,;，；、。]{0,12}?右下角\\s*)?"
_PUT_ZH = "(?:添加|加上|打上|放上|写上|寫上|印上|加|打|放|写|寫)"
_SAYING = r"\s+(?:saying|reading|(?:that|which)\s+(?:says|reads)|with\s+(?:the\s+)?(?:text|words?)|text)"
_SAYING_ZH = r"\s*(?:(?:文字|内容|內容)\s*[为為是]?|[为為是]|写着|寫著)"
_WITH = r"(?:\s+(?:it|this|the\s+(?:image|photo|picture)))?\s+with"
# Without quotation marks a text needs a colon or words that introduce it: "watermark it" has none.
_WATERMARK = re.compile(
    rf"(?:(?:write|add|put|stamp|print|overlay)\s+)(?:the\s+)?(?:(?:text|words?|caption)\s+)?(?P<write>{_QUOTED})(?:\s+as\s+(?:a\s+|the\s+)?(?:text\s+)?watermark)?{_ON_IT}"
    r"|(?:(?:add|put|place|apply|insert|stamp)\s+)?(?:it\s+with\s+)?(?:a\s+|the\s+|my\s+)?(?:text\s+)?watermark"
    rf"(?:(?:{_SAYING}|{_WITH})?\s*[:：]?\s*(?P<quoted>{_QUOTED}){_ON_IT}|(?:{_SAYING}\s*[:：]?|\s*[:：])\s*(?P<plain>{_PLAIN_TEXT}))"
    rf"|{_IN_CORNER}{_PUT_ZH}?(?:一?[个個])?(?:文字)?浮?水印"
    rf"(?:(?:{_SAYING_ZH})?\s*[:：]?\s*(?P<zh>{_QUOTED})|(?:{_SAYING_ZH}\s*[:：]?|\s*[:：])\s*(?P<zh_plain>{_PLAIN_TEXT}))"
    rf"|{_IN_CORNER}{_PUT_ZH}(?:一?[个個])?(?:文字|字样|字樣)?\s*(?P<put>{_QUOTED})(?:\s*的?(?:文字|字样|字樣)?的?浮?(?:水印)?)"
    rf"|(?P<first>{_QUOTED})\s*的?(?:文字)?浮?水印",
    re.IGNORECASE,
)
_TAKEN_AWAY = re.compile(
    r"\b(?:remove|delete|erase|clear|clean|drop|strip|hide|no|not|without|rid|away|off)\b|去|除|删|清|消|抹|擦|不|没|无"
)
_SLOT = "\N{OBJECT REPLACEMENT CHARACTER}"


def parse(prompt: str) -> tuple[Operation, ...]:
    """The operations that a prompt asks for, in order. Raises EditError, which names the words it does not know."""
    found = _remembered(prompt)
    if isinstance(found, EditError):
        raise EditError(found.code, str(found))
    return found


# Clients repeat prompts, and the API and a worker parse each. A batch of a hundred has room.
@lru_cache(maxsize=256)
def _remembered(prompt: str) -> tuple[Operation, ...] | EditError:
    """What a prompt is parsed into, or why it is refused."""
    try:
        return _parsed(prompt)
    except EditError as error:
        return EditError(error.code, str(error))  # one that was raised would keep all frames


def _parsed(prompt: str) -> tuple[Operation, ...]:
    if any(char == _SLOT or (unicodedata.category(char) == "Cc" and char not in "\t\n\r") for char in prompt):
        raise EditError("prompt_unknown", "the prompt has control characters: send plain text")
    marks: list[str] = []

    def take(match: re.Match[str]) -> str:
        text = next(filter(None, match.groups())).strip()
        if len(text) > 1 and any((text[0], text[-1]) == (begin, end) for begin, end in (*QUOTES, "『』")):
            text = text[1:-1].strip()
        if not 1 <= len(text) <= WATERMARK_MAX_CHARS:
            raise EditError("prompt_out_of_range", f"a watermark takes 1 to {WATERMARK_MAX_CHARS} characters of text")
        marks.append(text)
        return f",{_SLOT},"

    operations: list[Operation] = []
    complaints: list[Operation] = []
    folded = _folded(_WATERMARK.sub(take, prompt))
    for clause in SEPARATORS.split(folded):
        words = _bare(clause)
        if words == _SLOT:
            operations.append(make(Watermark, text=marks.pop(0)))
        elif words:
            operations.append(_clause(words, clause.strip()))
            if _COMPLAINT.fullmatch(words):
                complaints.append(operations[-1])
    for complaint in complaints:
        if any(other is not complaint and _remedies(other, complaint) for other in operations):
            operations = [operation for operation in operations if operation is not complaint]
    for pattern, instead in _DOUBTFUL:
        if match := pattern.search(folded):
            raise EditError("prompt_unknown", f"“{match[0][:80]}” is not clear: write {instead}")
    if not operations:
        raise EditError("prompt_unknown", f"the prompt asks for nothing; it may use: {VOCABULARY}")
    if len(operations) > OPERATIONS_MAX:
        raise EditError("prompt_too_long", f"the prompt asks for {len(operations)} edits; at most {OPERATIONS_MAX}")
    return tuple(operations)


def _folded(prompt: str) -> str:
    """The prompt in lower case, half width and simplified characters, with its idioms rewritten."""
    text = unicodedata.normalize("NFKC", prompt).lower().translate(_SIMPLIFIED)
    text = "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _bare(clause: str) -> str:
    """The clause without the words that say nothing."""
    clause = FILLER.sub(" ", _STRONG.sub(" very ", clause.translate({ord(char): " " for char in "()[]~…"})))
    return _SPACE_IN_CHINESE.sub("", " ".join(clause.split())).strip(" !:'\"-")


def _remedies(operation: Operation, complaint: Operation) -> bool:
    """Whether an operation makes the image brighter, or darker, as a complaint asks for."""
    return (
        all(isinstance(each, Brightness) for each in (operation, complaint))
        and operation.percent * complaint.percent > 0
    )


def _clause(words: str, original: str) -> Operation:
    for pattern, build in _RULES:
        if match := pattern.fullmatch(words):
            return build(*match.groups())
    if re.search("watermark|水印", words):
        if _TAKEN_AWAY.search(original):
            raise EditError("prompt_unknown", f"“{original[:80]}”: a watermark of the image cannot be removed")
        raise EditError("prompt_unknown", f"“{original[:80]}”: put the text of the watermark in quotation marks")
    raise EditError("prompt_unknown", f"not understood: “{original[:80]}”. The prompt may use: {VOCABULARY}")
