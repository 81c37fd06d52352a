use bson::doc;

use super::*;

fn definitions() -> Vec<Document> {
    vec![
        doc! {"param": "s", "type": "string"},
        doc! {"param": "big", "type": "bigstring"},
        doc! {"param": "n", "type": "number"},
        doc! {"param": "b", "type": "bool"},
        doc! {"param": "o", "type": "option", "values": ["x", "y"]},
        doc! {"param": "m", "type": "map"},
        doc! {"param": "p", "type": "password"},
        doc! {"param": "list", "type": "number", "array": true},
        doc! {"param": "st", "type": "struct", "template": [{"param": "in", "type": "string"}, {"param": "pw", "type": "password"}]},
        doc! {"param": "any"},
    ]
}

#[test]
fn settings_of_the_right_types_pass_and_may_be_missing() {
    let config = doc! {
        "s": "x", "big": "y", "n": 1.5, "b": false, "o": "y", "m": {"k": "v"}, "p": "secret", "list": [1, 2],
        "st": {"in": 5}, "any": [1],
    };

    assert_eq!(check_config(&definitions(), &config.into()), Ok(()));
    assert_eq!(check_config(&definitions(), &doc! {}.into()), Ok(()));
}

#[test]
fn every_wrong_setting_has_its_sentence() {
    for (config, sentence) in [
        (doc! {"unknown": 1}, "No config definition found for parameter unknown"),
        (doc! {"s": 1}, "Expected config param s to be a string."),
        (doc! {"big": 1}, "Expected config param big to be a large string."),
        (doc! {"n": "1"}, "Expected config param n to be a number."),
        (doc! {"b": 1}, "Expected config param b to be a boolean."),
        (doc! {"o": "z"}, "Expected config param o to be one of x,y"),
        (doc! {"m": "x"}, "Expected config param m to be an object."),
        (
            doc! {"m": {"k": 1}},
            "Expected config param m to only contain string values.",
        ),
        (
            doc! {"p": 1},
            "Expected config param p to be a string representing a password.",
        ),
        (
            doc! {"list": 1},
            "Expected config param list to be an array of type number",
        ),
        (doc! {"list": [1, "x"]}, "Expected config param list[1] to be a number."),
        (doc! {"st": 1}, "Expected config param st to be an object."),
        (
            doc! {"st": {"out": 1}},
            "Field out is not defined in template definition for config param st.",
        ),
    ] {
        assert_eq!(
            check_config(&definitions(), &config.into()).unwrap_err().to_string(),
            sentence
        );
    }
}

#[test]
fn every_wrong_registration_has_its_sentence() {
    let with = |definition: Document| doc! {"urn": "u", "version": "1.0.0", "configDefs": [definition]};
    for (mediator, sentence) in [
        (doc! {}, "URN is required"),
        (doc! {"urn": ""}, "URN is required"),
        (
            doc! {"urn": "u", "version": "1"},
            "Version is required. Must be in SemVer form x.y.z",
        ),
        (
            with(doc! {"param": "a", "type": "struct"}),
            "Must specify a template for struct param 'a'",
        ),
        (
            with(doc! {"param": "a", "type": "struct", "template": [{"type": "x"}]}),
            "Must specify field 'param' in template definition for param 'a'",
        ),
        (
            with(doc! {"param": "a", "type": "struct", "template": [{"param": "x"}]}),
            "Must specify field 'type' in template definition for param 'a'",
        ),
        (
            with(doc! {"param": "a", "type": "struct", "template": [{"param": "x", "type": "struct"}]}),
            "May not recursively specify 'struct' in template definitions (param 'a')",
        ),
        (
            with(doc! {"param": "a", "type": "option"}),
            "Expected field 'values' to be an array (option param 'a')",
        ),
        (
            with(doc! {"param": "a", "type": "option", "values": []}),
            "Must specify a values array for option param 'a'",
        ),
    ] {
        assert_eq!(check_registration(&mediator).unwrap_err().to_string(), sentence);
    }
    assert_eq!(check_registration(&doc! {"urn": "u", "version": "1.0.0"}), Ok(()));
    assert!(check_first_registration(&doc! {"endpoints": []}).is_err());
}

#[test]
fn passwords_are_masked_wherever_they_are() {
    let mut mediator = doc! {
        "configDefs": definitions(), "config": {"s": "open", "p": "secret", "st": {"in": "x", "pw": "secret"}},
    };

    mask_passwords(&mut mediator);

    assert_eq!(
        mediator.get_document("config").unwrap(),
        &doc! {"s": "open", "p": MASK, "st": {"in": "x", "pw": MASK}}
    );
    let list = vec![doc! {"param": "p", "type": "password", "array": true}];
    let mut mediator = doc! {"configDefs": list, "config": {"p": ["a", "b"]}};
    mask_passwords(&mut mediator);
    assert_eq!(mediator.get_document("config").unwrap(), &doc! {"p": [MASK, MASK]});
}

#[test]
fn a_mask_that_comes_back_is_the_stored_password() {
    let mut config = doc! {"p": MASK, "s": MASK, "st": {"pw": MASK}};
    let stored = doc! {"p": "secret", "s": "other", "st": {"pw": "inner"}};

    restore_passwords(&definitions(), &mut config, &stored);

    assert_eq!(config, doc! {"p": "secret", "s": MASK, "st": {"pw": "inner"}});
    let list = vec![doc! {"param": "p", "type": "password", "array": true}];
    let mut config = doc! {"p": [MASK, "new", MASK]};
    restore_passwords(&list, &mut config, &doc! {"p": ["a", "b"]});
    assert_eq!(config, doc! {"p": ["a", "new", MASK]});
}

#[test]
fn settings_that_somebody_made_survive_a_newer_version() {
    let mut config = doc! {"kept": "default", "new": 1, "unset": 2};

    keep_settings(&mut config, &doc! {"kept": "made", "gone": 1, "unset": null});

    assert_eq!(config, doc! {"kept": "made", "new": 1, "unset": 2});
}
