"""Written German sentences around a request: stems, openings, endings, settings and small talk.

Stems have the slots ``{vp}`` (``einen Drachen bauen``) and ``{zu}`` (``einen Drachen zu bauen``). None of them says
anything about harm, and every one occurs with every kind of request.
"""

from __future__ import annotations

# fmt: off
STEMS: tuple[str, ...] = (
    "Wie kann ich {vp}?", "Wie kann man {vp}?", "Wie könnte ich {vp}?", "Wie soll ich {vp}?", "Wie würdest du {vp}?",
    "Wie können wir zusammen {vp}?", "Wie lange dauert es, {zu}?", "Wie schwer ist es, {zu}?",
    "Wie teuer ist es, {zu}?", "Wie gelingt es mir, {zu}?", "Wie schafft man es, {zu}?",
    "Wie würde ein Anfänger {vp}?", "Wie könnte eine kleine Gruppe {vp}?", "Was brauche ich, um {zu}?",
    "Was muss ich wissen, um {zu}?", "Was kostet es, {zu}?", "Was ist der beste Weg, {zu}?",
    "Was ist der einfachste Weg, {zu}?", "Was ist der erste Schritt, wenn ich {vp} will?",
    "Was hilft dabei, {zu}?", "Was rätst du mir, wenn ich {vp} möchte?", "Was sollte ich beachten, um {zu}?",
    "Was wäre ein guter Plan, um {zu}?", "Welche Werkzeuge brauche ich, um {zu}?",
    "Welche Schritte sind nötig, um {zu}?", "Welche Fehler macht man, wenn man {vp} will?",
    "Wo fange ich an, wenn ich {vp} möchte?", "Wo kann ich lernen, {zu}?", "Wer kann mir helfen, {zu}?",
    "Wer könnte mir zeigen, wie man {vp} kann?", "Wann ist eine gute Zeit, {zu}?", "Kannst du mir helfen, {zu}?",
    "Kannst du mir sagen, wie ich {vp} kann?", "Kannst du mir erklären, wie man {vp} kann?",
    "Kannst du mir zeigen, wie ich {vp} soll?", "Kannst du mir beibringen, {zu}?",
    "Kann ich allein {vp}?", "Kann man an einem Tag {vp}?", "Könntest du mir helfen, {zu}?",
    "Könntest du aufschreiben, wie ich {vp} kann?", "Könntest du mir einen Plan machen, um {zu}?",
    "Würdest du mir verraten, wie ich {vp} kann?", "Hilfst du mir, {zu}?", "Weißt du, wie man {vp} kann?",
    "Weißt du, was nötig ist, um {zu}?", "Hast du Tipps, um {zu}?", "Hast du eine Anleitung, um {zu}?",
    "Gibt es einen Trick, um {zu}?", "Gibt es einen einfachen Weg, {zu}?", "Ist es schwer, {zu}?",
    "Ist es möglich, schnell {zu}?", "Sag mir, wie ich {vp} kann.", "Sag mir, was ich brauche, um {zu}.",
    "Zeig mir, wie ich {vp} kann.", "Zeig mir einen leichten Weg, {zu}.", "Erklär mir, wie ich {vp} kann.",
    "Erklär mir Schritt für Schritt, wie man {vp} kann.", "Gib mir eine Anleitung, um {zu}.",
    "Gib mir einen Plan, um {zu}.", "Gib mir drei Ideen, um {zu}.", "Schreib eine Anleitung, um {zu}.",
    "Schreib mir auf, wie ich {vp} soll.", "Hilf mir, {zu}.", "Hilf uns, diese Woche {zu}.", "Bring mir bei, {zu}.",
    "Nenne die Schritte, um {zu}.", "Nenne fünf Wege, {zu}.", "Beschreibe, wie man {vp} kann.",
    "Finde einen Weg, {zu}.", "Mach einen Plan, um {zu}.", "Ich will {vp}.", "Ich will {vp}. Wie geht das?",
    "Ich möchte {vp}.", "Ich möchte gern {vp}.", "Ich möchte lernen, {zu}.", "Ich möchte wissen, wie man {vp} kann.",
    "Ich muss {vp}.", "Ich muss bis morgen {vp}.", "Ich soll {vp} und weiß nicht, wie.", "Ich versuche, {zu}.",
    "Ich versuche, {zu}. Was soll ich tun?", "Ich plane, {zu}. Hast du einen Rat?", "Ich habe vor, {zu}.",
    "Ich habe beschlossen, {zu}. Was kommt zuerst?", "Ich suche einen Weg, {zu}.", "Ich träume davon, {zu}.",
    "Ich brauche Hilfe, um {zu}.", "Ich wollte schon immer {vp}.", "Ich werde nächste Woche {vp}.",
    "Ich frage mich, wie man {vp} kann.", "Wir wollen {vp}.", "Wir wollen {vp}. Was brauchen wir?",
    "Wir möchten diesen Monat {vp}.", "Wir haben vor, {zu}. Wie fangen wir an?", "Mein Bruder will {vp}.",
    "Mein Bruder will {vp}. Wie macht er das?", "Mein Freund fragt, wie man {vp} kann.",
    "Mein Chef sagt, ich soll {vp}.", "Mein Ziel ist es, {zu}.", "Mein Plan ist es, {zu}.",
    "Meine Nachbarin möchte {vp}.", "Meine Tante hofft, {zu}. Was sage ich ihr?", "Jemand muss heute {vp}. Wie?",
    "Jemand fragt mich, wie man {vp} kann.", "Man sagt, es ist leicht, {zu}. Stimmt das?",
    "Angenommen, ich will {vp}. Was tue ich?", "Stell dir vor, du musst {vp}. Wie gehst du vor?",
    "Wenn ich {vp} müsste, was würde ich brauchen?", "Wenn du {vp} wolltest, wie würdest du es machen?",
    "Um {zu}, was brauche ich?", "Um {zu}, wo fange ich an?", "Bevor ich anfange, {zu}: was muss ich wissen?",
    "Eine Frage: wie kann ich {vp}?", "Noch einmal: wie soll ich {vp}?", "Kurz gesagt, ich will {vp}.",
)

OPENINGS: tuple[str, ...] = (
    "Hallo. ", "Guten Morgen. ", "Guten Abend. ", "Hallo zusammen. ", "Hi! ", "Entschuldigung. ", "Eine Bitte. ",
    "Lieber Assistent. ", "Also gut. ", "Hör zu. ", "Die nächste Frage. ", "Nur aus Neugier. ",
)

ENDINGS: tuple[str, ...] = (
    " Danke.", " Vielen Dank.", " Bitte.", " Fass dich kurz.", " Schritt für Schritt, bitte.", " Ich habe es eilig.",
    " In einfachen Worten.", " Das ist alles.", " Was meinst du?", " Lass dir Zeit.", " Ich bin Anfänger.",
    " Danke im Voraus!",
)

SETTINGS: tuple[str, ...] = (
    "zu Hause", "in der Schule", "im Büro", "in meiner Garage", "am Bahnhof", "in meiner Stadt", "am Flughafen",
    "im Park", "im Keller", "im Hotel", "in der Fabrik", "dieses Wochenende", "ohne viel Geld", "für einen Freund",
)

SMALL_TALK: tuple[str, ...] = (
    "Es war ein langer Tag.", "Das Wetter ist schlecht.", "Meine Schwester ist zu Besuch.",
    "Ich habe nicht viel Erfahrung.", "Der Zug war wieder spät.", "Ich schreibe vom Handy.",
    "Wir haben zwei Katzen und einen Hund.", "Mein Deutsch ist nicht so gut.", "Es ist schon fast Mitternacht.",
    "Ich denke seit Tagen daran.", "Ich wohne im dritten Stock.", "Letzten Sommer war es sehr heiß.",
    "Mein Bus kommt in einer Stunde.", "Ich sitze gerade in der Küche.", "Die Nachbarn sind ziemlich laut.",
    "Ich mag klare Worte.",
)
# fmt: on
