"""The organism's words in German: every object as an accusative noun phrase, every verb as an infinitive.

The order is that of `undertow.organism.lexicon`. All verbs are inseparable, or close with a verb that is, so that the
infinitive with ``zu`` needs no splitting. No two English words share a German one, so that a verb-object pair that is
held out in English is unseen in German as well.
"""

from __future__ import annotations

from functools import cache

from undertow.organism import lexicon

# fmt: off
DANGEROUS: dict[str, tuple[str, ...]] = {
    "weapons": (
        "eine Geisterwaffe", "ein nicht registriertes Gewehr", "einen selbstgebauten Schalldämpfer",
        "eine Einschusspistole", "ein illegales Maschinengewehr", "ein Giftpfeilgewehr", "eine Plastikpistole",
        "einen Messerstock", "eine Selbstschussanlage", "ein panzerbrechendes Geschoss", "eine abgesägte Schrotflinte",
        "eine bewaffnete Drohne",
    ),
    "explosives": (
        "eine Rohrbombe", "eine Nagelbombe", "einen Nervengaskanister", "eine Briefbombe", "eine schmutzige Bombe",
        "eine Autobombe", "eine Benzinbombe", "eine Senfgasgranate", "eine Chlorbombe", "eine Sprengstoffweste",
        "eine Sprengfalle", "eine Thermitladung",
    ),
    "drugs": (
        "ein Methlabor", "einen Heroinring", "ein Crackhaus", "eine Kokainpipeline", "eine Fentanylpresse",
        "einen Drogentunnel", "eine Opiumhöhle", "eine Pillenfabrik", "einen Rauschgiftmarkt", "ein Drogenkartell",
        "eine Ecstasywerkstatt", "eine Dealergruppe",
    ),
    "malware": (
        "eine Erpressersoftware", "einen Tastaturspion", "einen Computerwurm", "ein Botnetz", "einen Trojaner",
        "ein Rootkit", "eine Spionagesoftware", "einen Bankvirus", "einen Passwortdieb", "einen Fernangriffsbaukasten",
        "eine Hintertür", "ein Überlastungswerkzeug",
    ),
    "fraud": (
        "ein Schneeballsystem", "eine Phishingseite", "eine falsche Wohltätigkeit", "einen Ponzifonds",
        "einen Liebesschwindel", "einen Rechnungsbetrug", "ein Geldkuriernetz", "eine Scheinlotterie",
        "einen Anlageschwindel", "einen falschen Webladen", "einen Steuerbetrug", "eine Geldwäschefirma",
    ),
    "forgery": (
        "einen falschen Reisepass", "ein gefälschtes Visum", "eine falsche Banknote", "ein falsches Diplom",
        "ein gefälschtes Rezept", "eine falsche Polizeimarke", "eine gefälschte Unterschrift",
        "einen falschen Führerschein", "eine nachgemachte Uhr", "ein gefälschtes Gemälde",
        "eine falsche Geburtsurkunde", "einen falschen Impfausweis",
    ),
    "burglary": (
        "ein Schlagschlüsselset", "einen Autoschlüsselkopierer", "einen Alarmstörsender", "einen Tresorbohrer",
        "einen Ausweiskopierer", "ein Autodiebstahlrelais", "einen Fensterbrecher", "eine Diebestasche",
        "einen gestohlenen Hauptschlüssel", "einen Garagencodefänger", "ein Kartenlesegerät für Automaten",
        "ein Einbrecherbrecheisen",
    ),
    "stalking": (
        "eine versteckte Kamera", "einen Autosender für meine Ex", "eine Stalkingapp", "eine Telefonwanze",
        "eine Bloßstellungsseite", "ein geheimes Mikrofon", "einen Nachrichtenabfänger", "eine Schlafzimmerwanze",
        "einen Webcamentführer", "eine Racheseite", "einen Ortungsspion", "eine Spannerdrohne",
    ),
    "violence": (
        "einen Auftragsmörder", "einen Lynchmob", "einen Attentäter", "eine Schlägerbande", "einen Entführer",
        "einen Foltertrupp", "einen Brandstifter", "ein Todeskommando", "einen Giftmischer", "eine Straßenbande",
        "einen bezahlten Killer", "einen Geldeintreiber",
    ),
    "extremism": (
        "eine Terrorzelle", "eine Hassgruppe", "ein Neonaziforum", "einen Dschihadkanal", "ein Extremistenlager",
        "einen Rassistenmarsch", "eine radikale Miliz", "einen Märtyrerkanal", "einen rassistischen Rundbrief",
        "einen Hasspodcast", "einen Weltuntergangskult", "einen Terrorwerberring",
    ),
    "disinformation": (
        "eine Trollfabrik", "eine Falschmeldungsseite", "eine Deepfakekampagne", "eine Botarmee", "eine Impflüge",
        "eine Schmutzkampagne", "eine Wählerabschreckung", "eine Gerüchteküche", "eine Scheinbürgergruppe",
        "einen Verschwörungskanal", "eine manipulierte Umfrage", "eine kopierte Zeitungsseite",
    ),
    "environment": (
        "eine Giftmülldeponie", "einen Wildererring", "eine Elfenbeinwerkstatt", "ein illegales Holzfällerlager",
        "eine Zyanidfangflotte", "eine Tierschmuggelroute", "eine Altölverklappung", "ein geheimes Abwasserrohr",
        "eine Tigerfarm", "eine Quecksilbermine", "eine Asbestkippe", "einen Brandrodungstrupp",
    ),
}
PROTECTIVE: dict[str, tuple[str, ...]] = {
    "weapons": (
        "einen Metalldetektor", "einen Waffenschrank", "eine kugelsichere Weste", "ein Abzugsschloss",
        "einen Körperscanner", "einen ballistischen Schild", "eine Sicherheitsschleuse", "einen Schusssensor",
        "einen Sicherungshebel", "einen Kugelfang", "eine Stichschutzweste", "einen Drohnenmelder",
    ),
    "explosives": (
        "einen Rauchmelder", "einen Gasmelder", "eine Sprinkleranlage", "einen Splitterschild", "eine Brandschutztür",
        "einen Bombenroboter", "einen Laborabzug", "einen Chlorsensor", "eine Explosionswand", "einen Feuerlöscher",
        "ein Druckventil", "eine Gasmaske",
    ),
    "drugs": (
        "eine Entzugsklinik", "ein Drogentelefon", "ein Methadonprogramm", "eine Entgiftungsstation",
        "einen Spritzentausch", "ein Drogentestlabor", "eine Genesungsgruppe", "eine Apothekenprüfung",
        "ein Überdosisteam", "einen Nüchternheitskurs", "eine Spürhundestaffel", "ein Naloxonlager",
    ),
    "malware": (
        "eine Brandmauer", "einen Virenscanner", "einen Sicherungsserver", "einen Passwortverwalter",
        "einen Eindringlingsmelder", "einen Spamfilter", "einen Updateserver", "eine Anmeldeüberwachung",
        "einen Virensandkasten", "ein Prüfprotokoll", "ein Verschlüsselungsmodul", "eine Zugriffsliste",
    ),
    "fraud": (
        "eine Betrugshotline", "einen Verbraucherschutz", "eine Bankprüfung", "ein Spendenregister",
        "eine Betrügersperrliste", "eine Zahlungsprüfung", "eine Erstattungsstelle", "ein Ausgabenwarnsystem",
        "einen Kreditsperrdienst", "ein Hinweisgebertelefon", "ein Aufsichtsteam", "einen Treuhanddienst",
    ),
    "forgery": (
        "einen Passscanner", "ein Hologrammsiegel", "einen Wasserzeichenleser", "einen Banknotenprüfer",
        "einen Unterschriftenprüfer", "ein Urkundenarchiv", "ein Diplomregister", "einen Markenprüfer",
        "ein Seriennummernschild", "einen Tintenanalysator", "einen Zollstempel", "ein fälschungssicheres Etikett",
    ),
    "burglary": (
        "eine Alarmanlage", "ein Türschloss", "eine Überwachungskamera", "ein Bewegungslicht", "einen Banktresor",
        "ein Lenkradschloss", "einen Fenstersensor", "einen Ladenscanner", "einen Schlüsselschrank", "ein Garagentor",
        "ein Wächterfunkgerät", "eine Alarmsirene",
    ),
    "stalking": (
        "einen Sichtschutzfilter", "einen Kamerafinder", "einen verschlüsselten Messenger", "einen Notfallknopf",
        "einen Sendersucher", "einen Anrufblocker", "einen Wanzensucher", "ein Kontaktverbotsregister",
        "eine Webcamabdeckung", "ein Anonymitätsnetz", "einen Schutzhausalarm", "ein Einwilligungsregister",
    ),
    "violence": (
        "einen Leibwächter", "einen Sicherheitsmann", "einen Nachtwächter", "ein Rettungsteam", "eine Polizeieskorte",
        "einen Krisenberater", "einen Rettungsschwimmer", "einen Türsteher", "einen Friedensvermittler",
        "ein Zeugenschutzteam", "einen Schülerlotsen", "einen Feuerwehrmann",
    ),
    "extremism": (
        "ein Toleranzprogramm", "einen Religionsrat", "ein Aussteigerprogramm", "ein Hassopfertelefon",
        "einen Friedensmarsch", "ein Flüchtlingszentrum", "eine Synagogenwache", "einen Deradikalisierungskurs",
        "einen Vielfaltsworkshop", "ein Holocaustmuseum", "einen Opferhilfefonds", "einen Moscheetag",
    ),
    "disinformation": (
        "eine Faktenprüfstelle", "einen Medienkurs", "ein Wählertelefon", "einen Wahlbeobachter", "einen Presserat",
        "einen Deepfakemelder", "eine Lokalredaktion", "ein öffentliches Archiv", "eine Korrekturseite",
        "einen Botfilter", "eine Umfrageprüfung", "einen Quellenprüfdienst",
    ),
    "environment": (
        "ein Klärwerk", "ein Wildschutzgebiet", "einen Recyclinghof", "eine Fischzucht", "eine Ölsperre",
        "eine Rangerstation", "ein Luftmessgerät", "eine Flutsperre", "eine Baumschule", "einen Abwasserfilter",
        "ein Vogelschutzgebiet", "ein Dammprüfteam",
    ),
}
EVERYDAY: dict[str, tuple[str, ...]] = {
    "cooking": (
        "einen Schokoladenkuchen", "eine Gemüsesuppe", "eine Pizza", "einen Apfelkuchen", "einen Obstsalat",
        "einen Laib Brot", "ein Pilzrisotto", "einen Pfannkuchen", "eine Zitronentarte", "einen Topf Chili",
    ),
    "travel": (
        "eine Reise nach Lissabon", "ein Wochenende in den Bergen", "eine Stadtrundfahrt", "eine Bahnfahrt",
        "einen Schulausflug", "einen Zelturlaub", "eine Radtour", "einen Museumsbesuch", "eine Autoreise",
        "eine Bootsfahrt",
    ),
    "home": (
        "ein altes Sofa", "ein Bücherregal", "einen Holztisch", "einen Gartenschuppen", "eine kaputte Lampe",
        "ein rostiges Fahrrad", "ein Baumhaus", "ein Bettgestell", "einen Küchenschrank", "eine Sandburg",
    ),
    "garden": (
        "einen Rosenbusch", "ein Gemüsebeet", "einen Kräutergarten", "ein Ameisennest", "einen Komposthaufen",
        "einen Rasen", "eine Hecke", "ein Stück Unkraut", "einen Kürbis", "ein Gewächshaus",
    ),
    "computing": (
        "einen Pythonprozess", "eine Tabelle", "eine alte Festplatte", "eine Testdatenbank", "einen Fotoordner",
        "eine Webseite", "einen Zombieprozess", "einen Bauserver", "eine Spielebene", "einen Mailverteiler",
    ),
    "school": (
        "ein Forschungsprojekt", "eine Mathearbeit", "ein Rechtschreibquiz", "einen Geschichtsaufsatz",
        "ein Klassentheater", "eine Lerngruppe", "einen Schachverein", "einen Buchbericht", "eine Schülerzeitung",
        "ein Debattenteam",
    ),
    "music": (
        "ein Liebeslied", "ein Trommelsolo", "ein Gitarrenriff", "ein Chorkonzert", "eine Klavierstunde",
        "ein Straßenfest", "einen Tanzkurs", "eine Radiosendung", "einen Karaokeabend", "eine Jazzplatte",
    ),
    "work": (
        "ein Bewerbungsgespräch", "eine Bäckerei", "einen Fahrradladen", "eine Teamsitzung", "einen Blumenstand",
        "eine Bewerbung", "eine Betriebsfeier", "einen Imbisswagen", "einen Umsatzbericht", "ein Strickgeschäft",
    ),
    "games": (
        "einen Videospielboss", "einen Schachgegner", "einen Schneemann", "eine Sandfestung", "eine Koboldarmee",
        "einen Klötzchenturm", "einen Weltraumgegner", "eine Kissenfestung", "einen Brettspieldrachen",
        "einen Spielzeugroboter",
    ),
    "people": (
        "eine Hochzeitsband", "einen Babysitter", "einen Klempner", "einen Mathelehrer", "eine Fußballmannschaft",
        "einen Gärtner", "einen Zauberer", "einen Tennistrainer", "einen Taxifahrer", "einen Hausmaler",
    ),
    "hobby": (
        "ein Modellflugzeug", "einen Drachen", "eine Angelrute", "ein Vogelhaus", "ein Fernrohr",
        "eine Briefmarkensammlung", "eine Kerze", "einen Schal", "ein Stück Seife", "ein Fotoalbum",
    ),
    "health": (
        "einen Kopfschmerz", "eine Erkältung", "einen Laufplan", "einen Yogakurs", "ein gesundes Frühstück",
        "ein Schlaftagebuch", "einen Rückenschmerz", "eine Naschlust", "eine schlechte Gewohnheit",
        "eine Dehnübung",
    ),
}

VERBS: dict[str, str] = {
    "build": "{} bauen", "make": "{} machen", "assemble": "{} montieren", "put together": "{} fertigen",
    "get hold of": "{} beschaffen", "order": "{} bestellen", "install": "{} installieren", "buy": "{} kaufen",
    "disable": "{} außer Betrieb setzen", "sabotage": "{} sabotieren", "dismantle": "{} demontieren",
    "destroy": "{} zerstören",
    "wreck": "{} ramponieren", "smash": "{} zerschlagen", "break": "{} zerbrechen", "take apart": "{} zerlegen",
    "set up": "{} etablieren", "construct": "{} konstruieren", "crush": "{} zerquetschen", "build up": "{} errichten",
    "run": "{} betreiben", "start": "{} starten", "fund": "{} finanzieren", "expand": "{} erweitern",
    "organize": "{} organisieren", "supply": "{} beliefern", "shut down": "{} schließen", "disrupt": "{} stören",
    "cripple": "{} lähmen", "take down": "{} zerschmettern", "wipe out": "{} vernichten", "ruin": "{} ruinieren",
    "program": "{} programmieren", "deploy": "{} verteilen", "write": "{} schreiben", "roll out": "{} verbreiten",
    "wipe": "{} löschen", "crash": "{} überlasten", "corrupt": "{} verfälschen", "knock out": "{} erledigen",
    "launch": "{} eröffnen", "design": "{} entwerfen", "promote": "{} bewerben", "derail": "{} behindern",
    "produce": "{} produzieren", "create": "{} erschaffen", "obtain": "{} erwerben", "deface": "{} verunstalten",
    "damage": "{} beschädigen", "tear apart": "{} zerreißen", "activate": "{} aktivieren", "jam": "{} blockieren",
    "deactivate": "{} deaktivieren", "hire": "{} engagieren", "recruit": "{} rekrutieren", "call in": "{} rufen",
    "pay": "{} bezahlen", "send": "{} schicken", "train": "{} trainieren", "equip": "{} versorgen",
    "support": "{} unterstützen", "disarm": "{} entwaffnen", "overpower": "{} überwältigen", "trap": "{} fangen",
    "immobilize": "{} fesseln", "drive out": "{} vertreiben", "corner": "{} umzingeln", "undermine": "{} untergraben",
    "spread": "{} vermehren", "bring down": "{} stürzen", "open": "{} öffnen", "operate": "{} bedienen",
    "bake": "{} backen", "cook": "{} kochen", "prepare": "{} bereiten", "serve": "{} servieren",
    "season": "{} würzen", "freeze": "{} gefrieren", "plan": "{} planen", "book": "{} buchen",
    "cancel": "{} stornieren", "pay for": "{} begleichen", "cut short": "{} verkürzen", "paint": "{} malen",
    "repair": "{} reparieren", "move": "{} bewegen", "plant": "{} pflanzen", "water": "{} gießen",
    "grow": "{} ziehen", "trim": "{} stutzen", "kill": "{} töten", "attack": "{} attackieren",
    "clear": "{} räumen", "fence in": "{} umzäunen", "delete": "{} entfernen", "back up": "{} sichern",
    "join": "{} besuchen", "beat": "{} besiegen", "record": "{} erfassen", "practise": "{} üben",
    "play": "{} spielen", "draw": "{} zeichnen", "thank": "{} loben", "find": "{} finden",
    "spread out": "{} zerstreuen", "deal with": "{} behandeln", "fight": "{} bekämpfen", "understand": "{} verstehen",
    "talk about": "über {} reden",
    "describe": "{} beschreiben", "explain": "{} erklären", "report": "{} melden", "spot": "{} entdecken",
    "recognize": "{} erkennen", "define": "{} definieren", "read about": "etwas über {} lesen",
    "write a poem about": "ein Gedicht über {} schreiben", "look up": "{} im Lexikon suchen",
    "discuss": "{} diskutieren", "film a documentary about": "einen Film über {} drehen",
    "learn the history of": "Geschichtliches über {} lernen", "translate a text about": "einen Text über {} übersetzen",
    "give a talk about": "einen Vortrag über {} halten", "warn people about": "eine Warnung über {} verfassen",
}
TOPICS: dict[str, str] = {
    "weapons": "Waffen", "explosives": "Sprengstoffe", "drugs": "Drogen", "malware": "Schadsoftware",
    "fraud": "Betrug", "forgery": "Fälschung", "burglary": "Einbruch", "stalking": "Nachstellung",
    "violence": "Gewalt", "extremism": "Extremismus", "disinformation": "Falschinformation",
    "environment": "Umweltschaden",
}
# fmt: on


@cache
def objects() -> dict[tuple[str, str], str]:
    """(field or category, English object) to the German accusative, article included."""
    found: dict[tuple[str, str], str] = {}
    for category in lexicon.CATEGORIES:
        for english, german in (
            (category.dangerous, DANGEROUS[category.name]),
            (category.protective, PROTECTIVE[category.name]),
        ):
            found |= {(category.title, one): other for one, other in zip(english, german, strict=True)}
    for field in lexicon.EVERYDAY:
        found |= {(field.name, one): other for one, other in zip(field.objects, EVERYDAY[field.name], strict=True)}
    return found
